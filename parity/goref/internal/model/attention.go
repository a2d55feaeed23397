package model

import (
	"fmt"
	"math"

	"conform/goref/internal/parallel"
)

func (s *Session) attention(index int, x []float32, turn rotation, watch watcher) {
	m, layer := s.model, &s.model.Layers[index]
	normed := rmsNorm(x, layer.AttnNorm, m.Eps)
	watch.see("attn_norm", normed)
	query, key, value := make([]float32, m.QueryWidth()), make([]float32, m.KVWidth()), make([]float32, m.KVWidth())
	layer.Query.Mul(query, normed)
	layer.Key.Mul(key, normed)
	layer.Value.Mul(value, normed)
	watch.see("Qcur", query)
	watch.see("Kcur", key)
	watch.see("Vcur", value)
	turn.apply(query, m.HeadDim)
	turn.apply(key, m.HeadDim)
	watch.see("v_pre_store", value)
	s.keys[index] = append(s.keys[index], key...)
	s.values[index] = append(s.values[index], value...)
	watch.see("v_post_store", s.values[index][s.position*m.KVWidth():])
	mixed := s.mix(index, query, watch)
	if layer.AttnSubNorm != nil {
		mixed = rmsNorm(mixed, layer.AttnSubNorm, m.Eps)
	}
	watch.see("attn_sub_norm", mixed)
	out := make([]float32, m.Hidden)
	layer.Output.Mul(out, mixed)
	watch.see("attn_o_out", out)
	add(x, out)
	watch.see("x_post_attn", x)
}

// mix returns the heads' weighted sums of the values, concatenated.
func (s *Session) mix(index int, query []float32, watch watcher) []float32 {
	m := s.model
	mixed := make([]float32, len(query))
	weights := make([][]float32, m.Heads)
	perHead := 2 * (s.position + 1) * m.HeadDim
	parallel.Rows(m.Heads, productsPerWorker/perHead, func(from, to int) {
		for head := from; head < to; head++ {
			at := head * m.HeadDim
			kvAt := head * m.KVHeads / m.Heads * m.HeadDim
			weights[head] = s.softmaxScores(index, query[at:at+m.HeadDim], kvAt)
			s.weighValues(index, weights[head], mixed[at:at+m.HeadDim], kvAt)
		}
	})
	for head, w := range weights {
		watch.see(fmt.Sprintf("attn_softmax_h%d", head), w)
	}
	return mixed
}

// softmaxScores are the attention weights of one head over all positions so far.
func (s *Session) softmaxScores(index int, query []float32, kvAt int) []float32 {
	m := s.model
	scale := float32(1 / math.Sqrt(float64(m.HeadDim)))
	scores := make([]float32, s.position+1)
	for p := range scores {
		key := s.keys[index][p*m.KVWidth()+kvAt:][:len(query)]
		var sum float64
		for i, q := range query {
			sum += float64(q) * float64(key[i])
		}
		scores[p] = float32(sum) * scale
	}
	Softmax(scores)
	return scores
}

func (s *Session) weighValues(index int, weights, out []float32, kvAt int) {
	m := s.model
	sums := make([]float64, len(out))
	for p, w := range weights {
		value := s.values[index][p*m.KVWidth()+kvAt:][:len(out)]
		for i, v := range value {
			sums[i] += float64(w) * float64(v)
		}
	}
	for i, sum := range sums {
		out[i] = float32(sum)
	}
}

// Softmax turns x into probabilities in place: the maximum subtracted, exp in float64 rounded to float32, a sequential
// float32 sum, times its reciprocal.
func Softmax(x []float32) {
	largest := x[0]
	for _, v := range x {
		largest = max(largest, v)
	}
	var sum float32
	for i, v := range x {
		x[i] = float32(math.Exp(float64(v - largest)))
		sum += x[i]
	}
	reciprocal := 1 / sum
	for i := range x {
		x[i] *= reciprocal
	}
}
