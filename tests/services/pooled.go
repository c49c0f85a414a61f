// Go: handlers hand their calls to a pool whose goroutines are made when none is idle, each in
// consequence of some request, and then serve whoever comes.
package main

import (
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
)

type job struct {
	work func()
	done chan struct{}
}

var idle = make(chan chan job, 1024)

func submit(work func()) chan struct{} {
	done := make(chan struct{})
	select {
	case worker := <-idle:
		worker <- job{work, done}
	default:
		worker := make(chan job, 1)
		go func() {
			for job := range worker {
				job.work()
				close(job.done)
				idle <- worker
			}
		}()
		worker <- job{work, done}
	}
	return done
}

var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 512}}

func get(path string) {
	answer, err := client.Get("http://" + os.Getenv("NEXT") + path)
	if err != nil {
		log.Print(err)
		return
	}
	io.Copy(io.Discard, answer.Body)
	answer.Body.Close()
}

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		var all sync.WaitGroup
		for i := 0; i < 3; i++ {
			path := r.URL.Path + "/" + strconv.Itoa(i)
			done := submit(func() { get(path) })
			if strings.HasPrefix(path, "/sequence/") {
				<-done
				continue
			}
			all.Add(1)
			go func() {
				<-done
				all.Done()
			}()
		}
		all.Wait()
		w.Header().Set("Content-Length", "2")
		io.WriteString(w, "ok")
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}
