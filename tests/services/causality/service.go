// Go: net/http server and client with one pooled Transport.
// Typical: a goroutine per connection, moved between threads by the scheduler;
// the Transport's own goroutines read and write the outbound connections.
package main

import (
	"fmt"
	"io"
	"log"
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
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}
