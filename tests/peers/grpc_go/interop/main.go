// gRPC's interop service as grpc-go implements it, on a loopback port of its own.
//
// grpc-go's own program (interop/server) serves the same service, but on all interfaces, on a port that must be free,
// and without a sign that it is ready. With CERTIFICATE and KEY in the environment, both PEM, it serves over TLS.
//
// Prints the port, and ends with its standard input.
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

func main() {
	var options []grpc.ServerOption
	if certificate := os.Getenv("CERTIFICATE"); certificate != "" {
		pair, err := tls.X509KeyPair([]byte(certificate), []byte(os.Getenv("KEY")))
		if err != nil {
			log.Fatal(err)
		}
		options = append(options, grpc.Creds(credentials.NewServerTLSFromCert(&pair)))
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(options...)
	testgrpc.RegisterTestServiceServer(server, interop.NewTestServer())
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	go func() { log.Fatal(server.Serve(listener)) }()
	_, _ = io.Copy(io.Discard, os.Stdin)
}
