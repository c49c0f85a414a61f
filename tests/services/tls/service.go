// Go: a service over TLS that asks the next for each request, if there is one, and a client of it, which
// begins when it is told a line, and says `asked` when every answer was right. Knows nothing of tracing.
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
)

var client *http.Client

func get(port, path string) string {
	answer, err := client.Get("https://127.0.0.1:" + port + path)
	if err != nil {
		return err.Error()
	}
	content, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	if err != nil {
		return err.Error()
	}
	return string(content)
}

func serve(directory string) {
	next := os.Getenv("NEXT")
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		answer := "go " + r.URL.Path + "\n"
		if next != "" {
			answer += get(next, r.URL.Path)
		}
		io.WriteString(w, answer)
	})
	server := &http.Server{Addr: "127.0.0.1:" + os.Getenv("PORT")}
	if os.Getenv("HTTP2") == "" {
		server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	}
	log.Fatal(server.ListenAndServeTLS(directory+"/certificate.pem", directory+"/key.pem"))
}

func ask(requests, atOnce int) {
	fmt.Println("gate")
	bufio.NewReader(os.Stdin).ReadString('\n')
	numbers := make(chan int)
	var all sync.WaitGroup
	for i := 0; i < atOnce; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			for number := range numbers {
				path := "/item/" + strconv.Itoa(number)
				if answer := get(os.Getenv("PORT"), path); !strings.HasPrefix(answer, "go "+path+"\n") {
					log.Fatalf("%s: %q", path, answer)
				}
			}
		}()
	}
	for number := 0; number < requests; number++ {
		numbers <- number
	}
	close(numbers)
	all.Wait()
	fmt.Println("asked")
}

func main() {
	directory := os.Getenv("TLS")
	authority, err := os.ReadFile(directory + "/certificate.pem")
	if err != nil {
		log.Fatal(err)
	}
	known := x509.NewCertPool()
	known.AppendCertsFromPEM(authority)
	client = &http.Client{Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: known},
		MaxIdleConnsPerHost: 64,
		ForceAttemptHTTP2:   os.Getenv("HTTP2") != "",
	}}
	requests, _ := strconv.Atoi(os.Getenv("ASK"))
	if requests == 0 {
		serve(directory)
	}
	ask(requests, 16)
}
