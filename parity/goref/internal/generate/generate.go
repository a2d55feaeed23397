// Package generate continues a prompt token by token.
package generate

import (
	"fmt"
	"time"

	"conform/goref/internal/model"
	"conform/goref/internal/observe"
	"conform/goref/internal/sample"
)

// Request is one sequence to produce: exactly MaxTokens tokens, as there is no stop token.
type Request struct {
	Prompt    []int
	MaxTokens int
	Sampling  sample.Options
	Forced    []int // element i replaces the token chosen at decode step i
}

// Check fails on a request that the model cannot answer in full.
func (r Request) Check(m *model.Model, settings observe.Settings) error {
	if len(r.Prompt) == 0 {
		return fmt.Errorf("the prompt has no tokens and the model adds no BOS")
	}
	// The last token produced is never run through the model.
	if last := len(r.Prompt) + r.MaxTokens - 1; last > m.Context {
		return fmt.Errorf("%d prompt tokens and %d new ones need %d positions, the model's context has %d",
			len(r.Prompt), r.MaxTokens, last, m.Context)
	}
	for i, token := range r.Forced {
		if token >= m.Vocab {
			return fmt.Errorf("forced token %d at step %d is outside the vocabulary of %d", token, i, m.Vocab)
		}
	}
	if settings.TraceStep >= r.MaxTokens {
		return fmt.Errorf("step %d is to be traced, but there are %d steps", settings.TraceStep, r.MaxTokens)
	}
	if positions := len(r.Prompt) + r.MaxTokens - 1; settings.LogitsAt >= positions {
		return fmt.Errorf("logits at position %d are asked for, but %d positions are run", settings.LogitsAt, positions)
	}
	return nil
}

// Run returns the new tokens. Decode step i runs the token at position len(Prompt)-1+i.
func Run(m *model.Model, r Request, trace *observe.Trace) ([]int, error) {
	session := m.NewSession()
	sampler := sample.New(r.Sampling)
	var produced []int
	token := r.Prompt[0]
	for len(produced) < r.MaxTokens {
		position := session.Position()
		step := position - (len(r.Prompt) - 1)
		started := time.Now()
		hidden, err := session.Step(token, trace.Begin(step, position, token))
		if err != nil {
			return nil, err
		}
		if err := trace.Hidden(step, position, hidden); err != nil {
			return nil, err
		}
		if step < 0 {
			token = r.Prompt[position+1]
			continue
		}
		if token, err = choose(m, sampler, r.Forced, step, hidden, trace); err != nil {
			return nil, fmt.Errorf("position %d: %w", position, err)
		}
		trace.Timed(step, time.Since(started))
		produced = append(produced, token)
	}
	return produced, nil
}

func choose(m *model.Model, sampler *sample.Sampler, forced []int, step int, hidden []float32,
	trace *observe.Trace) (int, error) {
	logits, err := m.Logits(hidden)
	if err != nil {
		return 0, err
	}
	greedy := sample.Greedy(logits)
	trace.Chosen(step, greedy, logits[greedy])
	token, err := sampler.Pick(logits)
	if step < len(forced) {
		token = forced[step]
	}
	return token, err
}
