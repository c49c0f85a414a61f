# CRuby, Rack app for puma, client Net::HTTP with a small pool of persistent connections.
# Typical: puma's reactor thread reads slow or idle connections, a pool thread runs
# the request and its blocking calls; parallel and background work is Thread.new.

require "net/http"

HOST, NEXT_PORT = ENV.fetch("NEXT").split(":")

class Pool
  def initialize
    @idle = []
    @lock = Mutex.new
  end

  def get(path)
    http = @lock.synchronize { @idle.pop } || connect
    status = http.get(path).code.to_i
    @lock.synchronize { @idle.push(http) }
    status
  end

  private

  def connect
    # The nil: no proxy.
    http = Net::HTTP.new(HOST, NEXT_PORT.to_i, nil)
    http.keep_alive_timeout = 60
    http.read_timeout = 20
    http.start
  end
end

CLIENT = Pool.new

# Ten connections to the datastore, which does not speak HTTP: a line is a query, a line its row.
class Store
  def initialize
    @host, @port = ENV.fetch("STORE").split(":")
    @idle = Queue.new
    10.times { @idle << nil }
  end

  def query(key)
    connection = @idle.pop
    connection ||= TCPSocket.new(@host, @port.to_i)
    connection.write("query #{key}\n")
    raise "wrong row" unless connection.gets == "row #{key}\n"
  ensure
    @idle << connection
  end
end

STORE = Store.new

PATTERNS = {
  "one" => ->(id) { CLIENT.get("/one/#{id}/0") },
  "sequence" => ->(id) { 3.times { |i| CLIENT.get("/sequence/#{id}/#{i}") } },
  "parallel" => lambda do |id|
    3.times.map { |i| Thread.new { CLIENT.get("/parallel/#{id}/#{i}") } }.each(&:join)
  end,
  "timer" => lambda do |id|
    sleep 0.02
    CLIENT.get("/timer/#{id}/0")
  end,
  "background" => lambda do |id|
    Thread.new do
      sleep 0.03
      CLIENT.get("/background/#{id}/0")
    end
  end,
  "retry" => lambda do |id|
    CLIENT.get("/retry/#{id}/1") if CLIENT.get("/retry/#{id}/0") == 503
  end,
  "datastore" => lambda do |id|
    STORE.query(id)
    CLIENT.get("/datastore/#{id}/0")
  end
}.freeze

run(lambda do |env|
  pattern, id = env["PATH_INFO"].match(%r{\A/(\w+)/(\d+)\z})&.captures
  if PATTERNS.key?(pattern)
    PATTERNS[pattern].call(id)
    [200, { "Content-Type" => "text/plain", "Content-Length" => "2" }, ["ok"]]
  else
    [404, { "Content-Type" => "text/plain", "Content-Length" => "9" }, ["not found"]]
  end
end)
