// Java: com.sun.net.httpserver with a pool of 160 threads, client java.net.http.
// Typical: a dispatcher thread selects, a pool thread reads the request and waits
// for the calls; threads of the client's executor write them, its selector thread
// reads the answers. With CLIENT=thread the thread that reads the request makes the calls as well,
// by the blocking HttpURLConnection, but for parallel ones; with CLIENT=pool a thread of a
// second pool makes each call.

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.net.HttpURLConnection;
import java.net.InetSocketAddress;
import java.net.Proxy;
import java.net.Socket;
import java.net.URI;
import java.net.URL;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.LinkedBlockingDeque;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;

public class Service {
    interface Pattern {
        void run(String id) throws Exception;
    }

    static final String NEXT = "http://" + System.getenv("NEXT");
    static final HttpClient client = HttpClient.newBuilder()
            .version(HttpClient.Version.HTTP_1_1)
            .proxy(HttpClient.Builder.NO_PROXY)
            .build();
    static final ScheduledExecutorService scheduler = Executors.newScheduledThreadPool(16);

    static HttpRequest request(String path) {
        return HttpRequest.newBuilder(URI.create(NEXT + path)).timeout(Duration.ofSeconds(20)).build();
    }

    static final boolean pooled = "pool".equals(System.getenv("CLIENT"));
    static final boolean blocking = "thread".equals(System.getenv("CLIENT"));
    static final ExecutorService jobs = Executors.newFixedThreadPool(64);

    static int block(String path) {
        try {
            HttpURLConnection connection =
                    (HttpURLConnection) new URL(NEXT + path).openConnection(Proxy.NO_PROXY);
            connection.setReadTimeout(20_000);
            int status = connection.getResponseCode();
            // Read to its end, so that the connection is used again.
            try (InputStream content =
                    status < 400 ? connection.getInputStream() : connection.getErrorStream()) {
                content.readAllBytes();
            }
            return status;
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    static int get(String path) throws Exception {
        if (pooled) {
            return jobs.submit(() -> block(path)).get();
        }
        if (blocking) {
            return block(path);
        }
        return client.send(request(path), BodyHandlers.ofString()).statusCode();
    }

    static CompletableFuture<?> start(String path) {
        return pooled || blocking
                ? CompletableFuture.supplyAsync(() -> block(path), jobs)
                : client.sendAsync(request(path), BodyHandlers.ofString());
    }

    static void one(String id) throws Exception {
        get("/one/" + id + "/0");
    }

    static void sequence(String id) throws Exception {
        for (int i = 0; i < 3; i++) {
            get("/sequence/" + id + "/" + i);
        }
    }

    static void parallel(String id) throws Exception {
        CompletableFuture.allOf(IntStream.range(0, 3)
                .mapToObj(i -> start("/parallel/" + id + "/" + i))
                .toArray(CompletableFuture[]::new)).get();
    }

    static void timer(String id) throws Exception {
        Thread.sleep(20);
        get("/timer/" + id + "/0");
    }

    static void background(String id) {
        scheduler.schedule(() -> get("/background/" + id + "/0"), 30, TimeUnit.MILLISECONDS);
    }

    static void retry(String id) throws Exception {
        if (get("/retry/" + id + "/0") == 503) {
            get("/retry/" + id + "/1");
        }
    }

    // A connection to the datastore, which does not speak HTTP: a line is a query, a line its row.
    static class Connection {
        Socket socket;
        BufferedReader rows;

        void query(String key) throws IOException {
            if (socket == null) {
                String[] address = System.getenv("STORE").split(":");
                socket = new Socket(address[0], Integer.parseInt(address[1]));
                rows = new BufferedReader(new InputStreamReader(socket.getInputStream()));
            }
            socket.getOutputStream().write(("query " + key + "\n").getBytes());
            if (!("row " + key).equals(rows.readLine())) {
                throw new IOException("wrong row");
            }
        }
    }

    // Ten of them, opened at their first use.
    static final LinkedBlockingDeque<Connection> idle = new LinkedBlockingDeque<>(
            IntStream.range(0, 10).mapToObj(i -> new Connection()).toList());

    static void datastore(String id) throws Exception {
        Connection connection = idle.takeFirst();
        try {
            connection.query(id);
        } finally {
            idle.putFirst(connection);
        }
        get("/datastore/" + id + "/0");
    }

    static void answer(HttpExchange exchange, int status, String text) throws IOException {
        byte[] content = text.getBytes();
        exchange.getResponseHeaders().set("Content-Type", "text/plain");
        exchange.sendResponseHeaders(status, content.length);
        exchange.getResponseBody().write(content);
        exchange.close();
    }

    static void handle(HttpServer server, String name, Pattern pattern) {
        String prefix = "/" + name + "/";
        server.createContext(prefix, exchange -> {
            String id = exchange.getRequestURI().getPath().substring(prefix.length());
            if (!id.matches("\\d+")) {
                answer(exchange, 404, "not found");
                return;
            }
            try {
                pattern.run(id);
            } catch (Exception e) {
                answer(exchange, 502, "bad gateway");
                return;
            }
            answer(exchange, 200, "ok");
        });
    }

    public static void main(String[] args) throws Exception {
        // Head and content go out in two writes: without this, Nagle's algorithm delays the second.
        System.setProperty("sun.net.httpserver.nodelay", "true");
        System.setProperty("sun.net.httpserver.maxIdleConnections", "512");
        System.setProperty("sun.net.httpserver.idleInterval", "120");
        System.setProperty("http.maxConnections", "512");
        int port = Integer.parseInt(System.getenv("PORT"));
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 512);
        server.setExecutor(Executors.newFixedThreadPool(160));
        handle(server, "one", Service::one);
        handle(server, "sequence", Service::sequence);
        handle(server, "parallel", Service::parallel);
        handle(server, "timer", Service::timer);
        handle(server, "background", Service::background);
        handle(server, "retry", Service::retry);
        handle(server, "datastore", Service::datastore);
        server.start();
    }
}
