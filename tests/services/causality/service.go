// Go: net/http server and client with one pooled Transport.
// Typical: a goroutine per connection, moved between threads by the scheduler;
// the Transport's own goroutines read and write the outbound connections.
package main

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

var next = "http://" + os.Getenv("NEXT")

var client = &http.Client{
	Transport: &http.Transport{
		MaxIdleConns:        512,
		MaxIdleConnsPerHost: 512,
		IdleConnTimeout:     60 * time.Second,
	},
	Timeout: 20 * time.Second,
}

func get(pattern, id string, i int) (int, error) {
	answer, err := client.Get(fmt.Sprintf("%s/%s/%s/%d", next, pattern, id, i))
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, err
}

func one(id string) error {
	_, err := get("one", id, 0)
	return err
}

func sequence(id string) error {
	for i := 0; i < 3; i++ {
		if _, err := get("sequence", id, i); err != nil {
			return err
		}
	}
	return nil
}

func parallel(id string) error {
	var wg sync.WaitGroup
	var errs [3]error
	for i := 0; i < 3; i++ {
		wg.Add(1)
		go func(i int) {
			defer wg.Done()
			_, errs[i] = get("parallel", id, i)
		}(i)
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func timer(id string) error {
	time.Sleep(20 * time.Millisecond)
	_, err := get("timer", id, 0)
	return err
}

func background(id string) error {
	go func() {
		time.Sleep(30 * time.Millisecond)
		get("background", id, 0)
	}()
	return nil
}

func retry(id string) error {
	status, err := get("retry", id, 0)
	if err == nil && status == http.StatusServiceUnavailable {
		_, err = get("retry", id, 1)
	}
	return err
}

// A connection to the datastore, which does not speak HTTP: a line is a query, a line its row.
type connection struct {
	stream net.Conn
	rows   *bufio.Reader
}

// Ten of them; nil where one is not open yet.
var idle = make(chan *connection, 10)

func query(key string) error {
	c := <-idle
	defer func() { idle <- c }()
	if c == nil {
		stream, err := net.Dial("tcp", os.Getenv("STORE"))
		if err != nil {
			return err
		}
		c = &connection{stream, bufio.NewReader(stream)}
	}
	if _, err := fmt.Fprintf(c.stream, "query %s\n", key); err != nil {
		return err
	}
	row, err := c.rows.ReadString('\n')
	if err == nil && row != "row "+key+"\n" {
		err = fmt.Errorf("the row of %s is %q", key, row)
	}
	return err
}

func datastore(id string) error {
	if err := query(id); err != nil {
		return err
	}
	_, err := get("datastore", id, 0)
	return err
}

func handle(pattern string, work func(id string) error) {
	prefix := "/" + pattern + "/"
	http.HandleFunc(prefix, func(w http.ResponseWriter, r *http.Request) {
		id := strings.TrimPrefix(r.URL.Path, prefix)
		if _, err := strconv.ParseUint(id, 10, 64); err != nil {
			http.NotFound(w, r)
			return
		}
		if err := work(id); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", "2")
		io.WriteString(w, "ok")
	})
}

func main() {
	handle("one", one)
	handle("sequence", sequence)
	handle("parallel", parallel)
	handle("timer", timer)
	handle("background", background)
	handle("retry", retry)
	handle("datastore", datastore)
	for i := 0; i < cap(idle); i++ {
		idle <- nil
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}
