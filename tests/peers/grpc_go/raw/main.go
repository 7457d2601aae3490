// A unary call by grpc-go's client to each of the servers that are named as arguments, with a deadline of two seconds.
//
// Prints a line for each: the number of the status code, and its message.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

func call(address string) string {
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	err = conn.Invoke(ctx, "/greeter.Greeter/SayHello", &emptypb.Empty{}, &emptypb.Empty{})
	told := status.Convert(err)
	return fmt.Sprintf("%d %s", told.Code(), strings.ReplaceAll(told.Message(), "\n", " "))
}

func main() {
	addresses := os.Args[1:]
	told := make([]string, len(addresses))
	var calls sync.WaitGroup
	for i, address := range addresses {
		calls.Add(1)
		go func() {
			defer calls.Done()
			told[i] = call(address)
		}()
	}
	calls.Wait()
	fmt.Println(strings.Join(told, "\n"))
}
