package sample

import (
	"math"
	"testing"
)

func pick(t *testing.T, s *Sampler, logits []float32) int {
	t.Helper()
	token, err := s.Pick(logits)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestATemperatureThatOverflowsIsAnError(t *testing.T) {
	if _, err := New(Options{Seed: 1, Temperature: 1e-38, TopP: 1}).Pick([]float32{1, 99}); err == nil {
		t.Error("a token was drawn from NaN")
	}
	if token := pick(t, New(Options{Seed: 1, Temperature: 1e-38, TopP: 1}), []float32{-99, 1}); token != 1 {
		t.Errorf("token %d", token)
	}
}

func TestGreedyTakesTheLowestOfEqualMaxima(t *testing.T) {
	if token := Greedy([]float32{1, 3, 3, 2}); token != 1 {
		t.Errorf("token %d", token)
	}
	s := New(Options{Seed: 1, Temperature: 0, TopP: 1})
	before := s.random
	if pick(t, s, []float32{0, 1}) != 1 || s.random != before {
		t.Error("a greedy pick consumed a draw or missed the maximum")
	}
}

// Computed with arbitrary-precision integers from the definition of xorshift64*.
func TestGeneratorGivesTheNumbersOfItsDefinition(t *testing.T) {
	for seed, expected := range map[int64][3]uint32{
		1:  {0x3d815676, 0x3e12e275, 0x3f358497},
		42: {0x3d0328d8, 0x3cefce4f, 0x3d44e099},
		-7: {0x3ed7c3c4, 0x3e147d0b, 0x3e86cd62},
	} {
		g := newGenerator(seed)
		for i, bits := range expected {
			if got := math.Float32bits(g.uniform()); got != bits {
				t.Errorf("seed %d, draw %d: %08x, expected %08x", seed, i, got, bits)
			}
		}
	}
}

func TestASeedThatCancelsTheConstantDoesNotStall(t *testing.T) {
	mix := uint64(0x9e3779b97f4a7c15)
	g := newGenerator(int64(mix))
	if g.state != 1 || g.uniform() == g.uniform() {
		t.Error("the generator stalled")
	}
}

func TestTopKOfOneIsGreedyAndTopPOfNearlyNothingToo(t *testing.T) {
	logits := []float32{0, 2, 1, 2}
	for seed := range int64(50) {
		if token := pick(t, New(Options{Seed: seed, Temperature: 5, TopK: 1, TopP: 1}), logits); token != 1 {
			t.Errorf("top-k 1 drew %d", token)
		}
		if token := pick(t, New(Options{Seed: seed, Temperature: 5, TopP: 1e-6}), logits); token != 1 {
			t.Errorf("top-p 1e-6 drew %d", token)
		}
	}
}

func TestDrawsFollowTheProbabilities(t *testing.T) {
	// Probabilities 1/2, 1/3, 1/6.
	logits := []float32{float32(math.Log(3)), float32(math.Log(2)), 0}
	s := New(Options{Seed: 3, Temperature: 1, TopP: 1})
	var counts [3]int
	const draws = 60000
	for range draws {
		counts[pick(t, s, logits)]++
	}
	for token, expected := range []float64{draws / 2., draws / 3., draws / 6.} {
		if math.Abs(float64(counts[token])-expected) > 5*math.Sqrt(expected) {
			t.Errorf("token %d drawn %d times, expected about %.0f", token, counts[token], expected)
		}
	}
}

func TestTopPKeepsTheSetThatReachesIt(t *testing.T) {
	tokens, weights := nucleus([]int{10, 11, 12, 13}, []float32{0.125, 0.5, 0.25, 0.125}, 0.75)
	if len(tokens) != 2 || tokens[0] != 11 || tokens[1] != 12 || weights[0] != float32(0.5)*(1/float32(0.75)) {
		t.Errorf("kept %v %v", tokens, weights)
	}
	if tokens, _ := nucleus([]int{0, 1}, []float32{0.5, 0.5}, 0.5); len(tokens) != 1 || tokens[0] != 0 {
		t.Errorf("a tie kept %v", tokens)
	}
}

func TestADrawOfOneTakesTheLastToken(t *testing.T) {
	if token := draw([]int{4, 5}, []float32{0.3, 0.3}, 1); token != 5 {
		t.Errorf("token %d", token)
	}
}
