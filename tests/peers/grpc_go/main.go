// The Greeter on grpc-go: a server of another make than the client's. -help lists its options.
//
// Serves on 127.0.0.1 and prints the port. Each line on standard input is a command, answered with a line; the end of
// standard input ends the process.
//
//	graceful                 GOAWAY to all connections and no new ones; open calls may end
//	stop                     closes all connections
//	seen                     "PEAK CANCELLED": the most SayHellos at once, and how many of them the client cancelled
//	health SERVICE STATUS    with -health: what it tells from now on, such as SERVING or NOT_SERVING ("" is the server)
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// request is a HelloRequest or a StreamHelloRequest: a name, and numbers by their field.
type request struct {
	name    string
	numbers map[protowire.Number]uint64
}

// parse needs no generated code: to a message without fields all are unknown, and it has checked and kept them.
func parse(message *emptypb.Empty) request {
	r := request{numbers: map[protowire.Number]uint64{}}
	for rest := message.ProtoReflect().GetUnknown(); len(rest) > 0; {
		number, kind, tag := protowire.ConsumeTag(rest)
		switch kind {
		case protowire.BytesType:
			r.name, _ = protowire.ConsumeString(rest[tag:])
		case protowire.VarintType:
			r.numbers[number], _ = protowire.ConsumeVarint(rest[tag:])
		}
		_, _, size := protowire.ConsumeField(rest)
		rest = rest[size:]
	}
	return r
}

// reply is a HelloReply: on the wire, a StringValue is the same.
func reply(format string, values ...any) *wrapperspb.StringValue {
	return wrapperspb.String(fmt.Sprintf(format, values...))
}

func milliseconds(number uint64) time.Duration { return time.Duration(number) * time.Millisecond }

type greeter struct{ running, peak, cancelled atomic.Int64 }

func (g *greeter) sayHello(ctx context.Context, r request) (*wrapperspb.StringValue, error) {
	running := g.running.Add(1)
	defer g.running.Add(-1)
	for peak := g.peak.Load(); running > peak && !g.peak.CompareAndSwap(peak, running); peak = g.peak.Load() {
	}
	select {
	case <-time.After(milliseconds(r.numbers[2])):
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) {
			g.cancelled.Add(1)
		}
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	switch r.name {
	case "nobody":
		grpc.SetTrailer(ctx, metadata.Pairs("looked-in", "every-cave"))
		told, err := status.New(codes.NotFound, "nobody is not here").WithDetails(wrapperspb.String("a detail"))
		if err != nil {
			return nil, err
		}
		return nil, told.Err()
	case "how long":
		if deadline, ok := ctx.Deadline(); ok {
			return reply("%d", time.Until(deadline).Milliseconds()), nil
		}
		return reply("no deadline"), nil
	}
	return reply("grpc-go: hello, %s", r.name), nil
}

func streamHello(_ any, stream grpc.ServerStream) error {
	r, err := receive(stream)
	for i := uint64(0); err == nil && i < r.numbers[2]; i++ {
		err = stream.SendMsg(reply("%d: hello, %s", i, r.name))
		time.Sleep(milliseconds(r.numbers[3]))
	}
	return err
}

func chat(_ any, stream grpc.ServerStream) error {
	for {
		r, err := receive(stream)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = stream.SendMsg(reply("hello, %s", r.name))
		}
		if err != nil {
			return err
		}
	}
}

func receive(stream grpc.ServerStream) (request, error) {
	message := new(emptypb.Empty)
	if err := stream.RecvMsg(message); err != nil {
		return request{}, err
	}
	return parse(message), nil
}

func (g *greeter) description() *grpc.ServiceDesc {
	unary := func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		message := new(emptypb.Empty)
		if err := decode(message); err != nil {
			return nil, err
		}
		return g.sayHello(ctx, parse(message))
	}
	return &grpc.ServiceDesc{
		ServiceName: "cenote.greeter.v1.Greeter",
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "SayHello", Handler: unary}},
		Streams: []grpc.StreamDesc{
			{StreamName: "StreamHello", Handler: streamHello, ServerStreams: true},
			{StreamName: "Chat", Handler: chat, ServerStreams: true, ClientStreams: true},
		},
	}
}

func main() {
	port := flag.Int("port", 0, "0: any")
	maxStreams := flag.Uint("max-streams", 0, "MaxConcurrentStreams; 0: no limit")
	maxAge := flag.Duration("max-age", 0, "MaxConnectionAge; 0: for ever, as for those that follow")
	maxAgeGrace := flag.Duration("max-age-grace", 0, "MaxConnectionAgeGrace")
	maxIdle := flag.Duration("max-idle", 0, "MaxConnectionIdle")
	minPingInterval := flag.Duration("min-ping-interval", 0, "pings more often than this are too many; 0: grpc-go's 5 min")
	withHealth := flag.Bool("health", false, "serve grpc.health.v1.Health")
	flag.Parse()

	options := []grpc.ServerOption{
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge: *maxAge, MaxConnectionAgeGrace: *maxAgeGrace, MaxConnectionIdle: *maxIdle,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: *minPingInterval}),
	}
	if *maxStreams > 0 {
		options = append(options, grpc.MaxConcurrentStreams(uint32(*maxStreams)))
	}
	server, greeter, healthServer := grpc.NewServer(options...), new(greeter), health.NewServer()
	server.RegisterService(greeter.description(), greeter)
	if *withHealth {
		healthpb.RegisterHealthServer(server, healthServer)
	}
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", *port))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	go func() { _ = server.Serve(listener) }()

	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		answer := "ok"
		switch words := strings.Split(lines.Text(), " "); {
		case words[0] == "graceful":
			go server.GracefulStop()
		case words[0] == "stop":
			server.Stop()
		case words[0] == "seen":
			answer = fmt.Sprint(greeter.peak.Load(), greeter.cancelled.Load())
		case words[0] == "health" && len(words) == 3:
			serving := healthpb.HealthCheckResponse_ServingStatus_value[words[2]]
			healthServer.SetServingStatus(words[1], healthpb.HealthCheckResponse_ServingStatus(serving))
		default:
			answer = "unknown"
		}
		fmt.Println(answer)
	}
}
