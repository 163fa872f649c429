// The SSE client of r3labs: prints each event of its parser as one line of JSON, and reconnects automatically.
package main

import (
	"context"
	"encoding/json"
	"os"
	"time"

	"github.com/r3labs/sse/v2"
	"gopkg.in/cenkalti/backoff.v1"
)

func main() {
	client := sse.NewClient(os.Args[1])
	client.ReconnectStrategy = backoff.NewConstantBackOff(50 * time.Millisecond)
	out := json.NewEncoder(os.Stdout)
	err := client.SubscribeRawWithContext(context.Background(), func(event *sse.Event) {
		_ = out.Encode(map[string]string{
			"event": string(event.Event), "data": string(event.Data), "id": string(event.ID),
		})
	})
	if err != nil {
		panic(err)
	}
}
