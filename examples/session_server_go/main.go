// Command session answers conform's questions about one GGUF file, all in one process: see docs/protocol.md.
// goref's packages stand for your runtime; they are internal, so copy this folder to parity/goref/cmd/ to build it.
package main

import (
	"encoding/binary"
	"encoding/json"
	"log"
	"os"
	"sync"

	"conform/goref/internal/gguf"
	"conform/goref/internal/model"
	"conform/goref/internal/sample"
	"conform/goref/internal/vocab"
)

type question struct {
	ID, Step         int
	Seed             int64
	Op, Prompt, Text string
	Forced           []int
	Temperature      float32
	MaxTokens        int     `json:"max_tokens"`
	TopK             int     `json:"top_k"`
	TopP             float32 `json:"top_p"`
}

type reply map[string]any

func main() {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout) // out ends each answer with a newline
	for q := (question{}); in.Decode(&q) == nil; q = (question{}) {
		r, err := answer(q)
		if err != nil {
			r = reply{"error": err.Error()}
		}
		r["id"] = q.ID
		out.Encode(r)
	}
}

func answer(q question) (reply, error) {
	switch q.Op {
	case "describe": // before the model is loaded: this process may be asked nothing else
		return reply{"session": 1, "generator": "xorshift64*", "observes": []string{"ids", "hidden"}}, nil
	case "tokenize":
		load()
		return reply{"ids": append([]int{}, vocabulary.Encode(q.Text)...)}, nil // never null
	case "answer", "step":
		load()
		return run(q)
	}
	return reply{"unsupported": true}, nil
}

var llm, vocabulary = (*model.Model)(nil), (*vocab.Vocabulary)(nil)

var load = sync.OnceFunc(func() {
	file := must(gguf.Open(os.Args[1]))
	vocabulary, llm = must(vocab.Read(file.Metadata)), must(model.Load(file, false))
})

func run(q question) (r reply, err error) {
	ids, text := vocabulary.Encode(q.Prompt), []byte(q.Prompt)
	r, session, first := reply{"tokens": q.MaxTokens}, llm.NewSession(), len(ids)-1
	sampler := sample.New(sample.Options{Seed: q.Seed, Temperature: q.Temperature, TopK: q.TopK, TopP: q.TopP})
	for at, token := 0, 0; at < first+q.MaxTokens; at++ {
		hidden, err := session.Step(ids[at], nil)
		if err != nil { // such as a position behind the context
			return nil, err
		} else if at < first {
			continue
		}
		logits := must(llm.Logits(hidden))
		if token = must(sampler.Pick(logits)); at-first < len(q.Forced) {
			token = q.Forced[at-first]
		}
		if best := sample.Greedy(logits); q.Op == "step" && at-first == q.Step {
			r["position"], r["token"], r["layers"], r["argmax"] = at, ids[at], len(llm.Layers), best
			r["hidden"], r["argmax_logit"] = floats(hidden), floats(logits[best:best+1])
		}
		ids, text = append(ids, token), append(text, vocabulary.Piece(token)...)
	}
	r["text"] = text
	return r, nil
}

// floats becomes base64 when it is written as JSON, as all bytes do.
func floats(values []float32) []byte { return must(binary.Append(nil, binary.LittleEndian, values)) }

// must ends the process with exit status 1, which is a refusal.
func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}
