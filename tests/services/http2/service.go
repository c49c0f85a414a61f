// Go: a gRPC service by grpc-go or, with H2C set, a plain HTTP/2 service by net/http, without TLS.
// Knows nothing of tracing.
//
// Notes the trace headers that it receives in the file SEEN, for the tests. With NEXT it asks
// another server of the same kind for every request. With ASK it is a client of that server: so
// many requests, some at once, whose answers it checks.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// Messages are bytes; no code is generated.
type raw struct{}

func (raw) Marshal(v interface{}) ([]byte, error) { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v interface{}) error {
	*v.(*[]byte) = append([]byte{}, data...)
	return nil
}
func (raw) Name() string   { return "proto" }
func (raw) String() string { return "raw" }

var seen *os.File

func note(path string, values []string) {
	fmt.Fprintf(seen, "%s %s\n", path, strings.Join(values, ","))
}

// Asks the next server, and gives its answer.
type asker func(ctx context.Context, path string) (string, error)

func grpcAsker(target string) asker {
	channel, err := grpc.Dial(target, grpc.WithInsecure(), grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})))
	if err != nil {
		log.Fatal(err)
	}
	return func(ctx context.Context, path string) (string, error) {
		request, answer := []byte{}, []byte{}
		err := channel.Invoke(ctx, path, &request, &answer)
		return string(answer), err
	}
}

func h2cAsker(target string) asker {
	client := &http.Client{Transport: &http2.Transport{
		AllowHTTP: true,
		DialTLS: func(network, address string, _ *tls.Config) (net.Conn, error) {
			return net.Dial(network, address)
		},
	}}
	return func(ctx context.Context, path string) (string, error) {
		request, err := http.NewRequestWithContext(ctx, "GET", "http://"+target+path, nil)
		if err != nil {
			return "", err
		}
		answer, err := client.Do(request)
		if err != nil {
			return "", err
		}
		defer answer.Body.Close()
		content, err := io.ReadAll(answer.Body)
		if err == nil && answer.StatusCode != 200 {
			err = fmt.Errorf("status %d", answer.StatusCode)
		}
		return string(content), err
	}
}

func serveGrpc(listener net.Listener, next asker) error {
	handle := func(_ interface{}, stream grpc.ServerStream) error {
		path, _ := grpc.MethodFromServerStream(stream)
		received, _ := metadata.FromIncomingContext(stream.Context())
		note(path, received.Get("traceparent"))
		request := []byte{}
		if err := stream.RecvMsg(&request); err != nil {
			return err
		}
		answer, err := answerTo(stream.Context(), path, next)
		if err != nil {
			return err
		}
		content := []byte(answer)
		return stream.SendMsg(&content)
	}
	return grpc.NewServer(grpc.CustomCodec(raw{}), grpc.UnknownServiceHandler(handle)).Serve(listener)
}

func serveH2c(listener net.Listener, next asker) error {
	handle := func(w http.ResponseWriter, r *http.Request) {
		note(r.URL.Path, r.Header.Values("Traceparent"))
		answer, err := answerTo(r.Context(), r.URL.Path, next)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		io.WriteString(w, answer)
	}
	return http.Serve(listener, h2c.NewHandler(http.HandlerFunc(handle), &http2.Server{}))
}

func answerTo(ctx context.Context, path string, next asker) (string, error) {
	own := "go " + path + "\n"
	if next == nil {
		return own, nil
	}
	answer, err := next(ctx, path)
	return own + answer, err
}

// So many requests, sixteen at once; each answer names its own path.
func ask(next asker, count int) {
	var all sync.WaitGroup
	turns := make(chan struct{}, 16)
	for i := 0; i < count; i++ {
		all.Add(1)
		turns <- struct{}{}
		go func(path string) {
			defer all.Done()
			answer, err := next(context.Background(), path)
			if err != nil || !strings.Contains(answer, " "+path) {
				log.Fatalf("%s: %q, %v", path, answer, err)
			}
			<-turns
		}("/shop.Item/N" + strconv.Itoa(i))
	}
	all.Wait()
	fmt.Println("done", count)
}

func main() {
	plain := os.Getenv("H2C") != ""
	var next asker
	if target := os.Getenv("NEXT"); target != "" && plain {
		next = h2cAsker("127.0.0.1:" + target)
	} else if target != "" {
		next = grpcAsker("127.0.0.1:" + target)
	}
	if count, err := strconv.Atoi(os.Getenv("ASK")); err == nil {
		ask(next, count)
		return
	}
	var err error
	seen, err = os.OpenFile(os.Getenv("SEEN"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		log.Fatal(err)
	}
	if plain {
		log.Fatal(serveH2c(listener, next))
	}
	log.Fatal(serveGrpc(listener, next))
}
