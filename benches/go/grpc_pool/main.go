// The load of the bench `stream_pool`, by pools of Go's making.
//
// -kind=sync.Pool is grpc-go's *grpc.ClientConn in a sync.Pool, whose state is looked at on each get and put;
// -kind=go-micro is go-micro's gRPC client, whose pool is its own and comes as it is.
//
// It prints one line of JSON.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sort"
	"sync"
	"syscall"
	"time"

	micro "github.com/go-micro/plugins/v4/client/grpc"
	"go-micro.dev/v4/client"
	"go-micro.dev/v4/codec/bytes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
)

var (
	kind    = flag.String("kind", "sync.Pool", "sync.Pool or go-micro")
	target  = flag.String("target", "", "host:port")
	callers = flag.Int("callers", 100, "how many call at once")
	delay   = flag.Uint64("delay", 0, "what the handler takes, in ms")
	warm    = flag.Duration("warm", 400*time.Millisecond, "what does not count")
	span    = flag.Duration("time", 2*time.Second, "what counts")
)

// HelloRequest{name: "ada", delay_ms: delay}
func hello() []byte {
	message := protowire.AppendTag(nil, 1, protowire.BytesType)
	message = protowire.AppendString(message, "ada")
	if *delay > 0 {
		message = protowire.AppendTag(message, 2, protowire.VarintType)
		message = protowire.AppendVarint(message, *delay)
	}
	return message
}

// HelloReply.message
func message(reply []byte) (string, error) {
	number, form, n := protowire.ConsumeTag(reply)
	if number != 1 || form != protowire.BytesType {
		return "", fmt.Errorf("no HelloReply: %v", reply)
	}
	text, m := protowire.ConsumeString(reply[n:])
	return text, protowire.ParseError(min(m, 0))
}

// Messages that are encoded already.
type raw struct{}

func (raw) Name() string                  { return "proto" }
func (raw) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

// clientPool is the original of this crate's pools.
type clientPool struct {
	pool sync.Pool
}

var (
	once   sync.Once
	shared *clientPool
)

func getClient() *clientPool {
	once.Do(func() {
		shared = &clientPool{}
		shared.pool.New = func() any {
			conn, err := grpc.NewClient(*target, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				panic(err)
			}
			return conn
		}
	})
	return shared
}

func usable(conn *grpc.ClientConn) bool {
	state := conn.GetState()
	return state != connectivity.TransientFailure && state != connectivity.Shutdown
}

func (p *clientPool) get() *grpc.ClientConn {
	for {
		conn := p.pool.Get().(*grpc.ClientConn)
		if usable(conn) {
			return conn
		}
		conn.Close()
	}
}

func (p *clientPool) put(conn *grpc.ClientConn) {
	if !usable(conn) {
		conn.Close()
		return
	}
	p.pool.Put(conn)
}

func bySyncPool(ctx context.Context) error {
	pool := getClient()
	conn := pool.get()
	defer pool.put(conn)
	request, reply := hello(), []byte(nil)
	err := conn.Invoke(ctx, "/cenote.greeter.v1.Greeter/SayHello", &request, &reply, grpc.ForceCodec(raw{}))
	if err != nil {
		return err
	}
	_, err = message(reply)
	return err
}

func byGoMicro() func(context.Context) error {
	all := micro.NewClient()
	return func(ctx context.Context) error {
		request := all.NewRequest("cenote.greeter.v1", "/cenote.greeter.v1.Greeter/SayHello", &bytes.Frame{Data: hello()})
		reply := &bytes.Frame{}
		if err := all.Call(ctx, request, reply, client.WithAddress(*target)); err != nil {
			return err
		}
		_, err := message(reply.Data)
		return err
	}
}

func cpu() time.Duration {
	var usage syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func main() {
	flag.Parse()
	call := bySyncPool
	if *kind == "go-micro" {
		call = byGoMicro()
	}
	begin := time.Now().Add(*warm)
	end := begin.Add(*span)
	times := make([][]time.Duration, *callers)
	failed := make([]int, *callers)
	var wait sync.WaitGroup
	for caller := range *callers {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for {
				start := time.Now()
				if !start.Before(end) {
					return
				}
				err := call(context.Background())
				now := time.Now()
				if err != nil && failed[caller] == 0 {
					fmt.Fprintln(os.Stderr, err)
				}
				if now.Before(begin) || !now.Before(end) {
					continue
				}
				if err != nil {
					failed[caller]++
				} else {
					times[caller] = append(times[caller], now.Sub(start))
				}
			}
		}()
	}
	time.Sleep(time.Until(begin))
	began, before := time.Now(), cpu()
	time.Sleep(time.Until(end))
	took, used := time.Since(began), cpu()-before
	wait.Wait()
	var sorted []time.Duration
	failures := 0
	for caller := range *callers {
		sorted = append(sorted, times[caller]...)
		failures += failed[caller]
	}
	sort.Slice(sorted, func(i, j int) bool { return sorted[i] < sorted[j] })
	at := func(quantile float64) float64 {
		if len(sorted) == 0 {
			return 0
		}
		return float64(sorted[int(quantile*float64(len(sorted)-1))].Microseconds()) / 1000
	}
	json.NewEncoder(os.Stdout).Encode(map[string]any{
		"rate":    float64(len(sorted)) / took.Seconds(),
		"per_cpu": float64(len(sorted)) / used.Seconds(),
		"failed":  failures,
		"p50":     at(0.5),
		"p99":     at(0.99),
	})
}
