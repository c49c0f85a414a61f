// Go: a service over TLS that asks the next for each request, if there is one, and a client of it, which
// begins when it is told a line, and says `asked` when every answer was right. With DEEP it asks on one
// connection, each time on a new stack of which a little more is in use. Knows nothing of tracing.
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
	answer, err := client.Get("https://" + os.Getenv("NEXT_HOST") + ":" + port + path)
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
	server := &http.Server{Addr: os.Getenv("HOST") + ":" + os.Getenv("PORT")}
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

//go:noinline
func deep(levels int, then func()) byte {
	var some [32]byte
	some[levels%32] = 1
	if levels == 0 {
		then()
	} else {
		some[0] += deep(levels-1, then)
	}
	return some[1]
}

func askDeep(known *x509.CertPool, requests int) {
	fmt.Println("gate")
	bufio.NewReader(os.Stdin).ReadString('\n')
	connection, err := tls.Dial("tcp", os.Getenv("NEXT_HOST")+":"+os.Getenv("PORT"), &tls.Config{RootCAs: known})
	if err != nil {
		log.Fatal(err)
	}
	answers := bufio.NewReader(connection)
	for number := 0; number < requests; number++ {
		path := "/item/" + strconv.Itoa(number)
		request := []byte("GET " + path + " HTTP/1.1\r\nHost: deep\r\n\r\n")
		done := make(chan error)
		go deep(number, func() {
			_, err := connection.Write(request)
			done <- err
		})
		if err := <-done; err != nil {
			log.Fatal(err)
		}
		answer, err := http.ReadResponse(answers, nil)
		if err != nil {
			log.Fatal(err)
		}
		content, err := io.ReadAll(answer.Body)
		if err != nil || string(content) != "go "+path+"\n" {
			log.Fatalf("%s: %q %v", path, content, err)
		}
	}
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
	if os.Getenv("DEEP") != "" {
		askDeep(known, requests)
		return
	}
	ask(requests, 16)
}
