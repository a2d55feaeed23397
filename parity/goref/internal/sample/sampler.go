// Package sample chooses tokens from logits, reproducibly from a seed.
package sample

import (
	"cmp"
	"fmt"
	"slices"

	"conform/goref/internal/model"
)

// Options are the sampler's settings: Temperature <= 0 is greedy, TopK 0 and TopP 1 are off.
type Options struct {
	Seed        int64
	Temperature float32
	TopK        int
	TopP        float32
}

// Sampler draws tokens of one sequence.
type Sampler struct {
	options Options
	random  generator
}

// New returns a sampler in its initial state.
func New(options Options) *Sampler {
	return &Sampler{options, newGenerator(options.Seed)}
}

// Greedy returns the lowest token among those with the largest logit.
func Greedy(logits []float32) int {
	best := 0
	for token, v := range logits {
		if v > logits[best] {
			best = token
		}
	}
	return best
}

// Pick chooses the next token; a draw is consumed unless the sampler is greedy. It fails when a logit
// divided by the temperature is too large for float32.
func (s *Sampler) Pick(logits []float32) (int, error) {
	if s.options.Temperature <= 0 {
		return Greedy(logits), nil
	}
	tokens := s.largest(logits)
	weights := make([]float32, len(tokens))
	for i, token := range tokens {
		weights[i] = logits[token] / s.options.Temperature
	}
	model.Softmax(weights)
	if first := weights[0]; first != first {
		return 0, fmt.Errorf("logits divided by the temperature %v exceed float32", s.options.Temperature)
	}
	if s.options.TopP < 1 {
		tokens, weights = nucleus(tokens, weights, s.options.TopP)
	}
	return draw(tokens, weights, s.random.uniform()), nil
}

// largest returns the TopK tokens of largest logit in descending order, or all tokens in order of their ids.
func (s *Sampler) largest(logits []float32) []int {
	tokens := make([]int, len(logits))
	for i := range tokens {
		tokens[i] = i
	}
	if s.options.TopK <= 0 {
		return tokens
	}
	slices.SortStableFunc(tokens, func(a, b int) int { return cmp.Compare(logits[b], logits[a]) })
	return tokens[:min(s.options.TopK, len(tokens))]
}

// nucleus keeps the shortest prefix, in descending probability (the earlier first on ties), whose sum reaches topP, and
// rescales it to a sum of 1.
func nucleus(tokens []int, weights []float32, topP float32) ([]int, []float32) {
	order := make([]int, len(tokens))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(weights[b], weights[a]) })
	var sum float32
	var keptTokens []int
	var keptWeights []float32
	for _, i := range order {
		sum += weights[i]
		keptTokens, keptWeights = append(keptTokens, tokens[i]), append(keptWeights, weights[i])
		if sum >= topP {
			break
		}
	}
	reciprocal := 1 / sum
	for i := range keptWeights {
		keptWeights[i] *= reciprocal
	}
	return keptTokens, keptWeights
}

// draw returns the first token whose cumulative weight reaches r, else the last.
func draw(tokens []int, weights []float32, r float32) int {
	var cumulative float32
	for i, w := range weights {
		cumulative += w
		if r <= cumulative {
			return tokens[i]
		}
	}
	return tokens[len(tokens)-1]
}
