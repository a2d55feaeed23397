package model

import (
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"conform/goref/internal/quant"
)

func TestActivationsRoundHalfToEvenAndClamp(t *testing.T) {
	levels, steps := quantizeActivations([]float32{127, 0.5, 1.5, -2.5, -127, 0})
	if steps != 1 || !slices.Equal(levels, []int8{127, 0, 2, -2, -127, 0}) {
		t.Errorf("levels %v, steps %v", levels, steps)
	}
	if levels, steps := quantizeActivations([]float32{0, 1e-7}); steps != float32(127)/float32(1e-5) || levels[1] != 1 {
		t.Errorf("tiny activations: levels %v, steps %v", levels, steps)
	}
}

func TestInt8ProductIsTheDotOfTheLevels(t *testing.T) {
	trits := []int8{1, -1, 0, 1, 1, 0, 0, 0, 0, -1}
	m := &Int8{2, 5, quant.Ternary{Trits: trits, Scale: 0.5}}
	out := make([]float32, 2)
	m.Mul(out, []float32{127, 10, 20, -30, 5})
	if out[0] != float32(127-10-30+5)*0.5 || out[1] != -2.5 {
		t.Errorf("product %v", out)
	}
	if row := m.Row(0); !slices.Equal(row, []float32{0.5, -0.5, 0, 0.5, 0.5}) {
		t.Errorf("row %v", row)
	}
}

func TestFloatProductRoundsOnceWhateverTheRowAndTheProcessors(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	m := &Float{203, 977, make([]float32, 203*977)}
	x := make([]float32, m.cols)
	for i := range m.data {
		m.data[i] = float32(random.NormFloat64())
	}
	for i := range x {
		x[i] = float32(random.NormFloat64())
	}
	expected := make([]float32, m.rows)
	for row := range expected {
		var sum float64
		for i, w := range m.Row(row) {
			sum += float64(w) * float64(x[i])
		}
		expected[row] = float32(sum)
	}
	for _, processors := range []int{1, 2, 3, 5} {
		before := runtime.GOMAXPROCS(processors)
		out := make([]float32, m.rows)
		m.Mul(out, x)
		runtime.GOMAXPROCS(before)
		if !slices.Equal(out, expected) {
			t.Errorf("%d processors: another product", processors)
		}
	}
}

func TestRotationTurnsAdjacentPairsForLlamaAndHalvesForBitNet(t *testing.T) {
	for arch, partner := range map[string]int{archLlama: 1, archBitNet: 4} {
		m := &Model{Config: Config{Arch: arch, HeadDim: 10}, Rope: Rope{[]float64{1, 0.1, 0.01, 0.001}, 1}}
		x := make([]float32, 20)
		x[0], x[10], x[8], x[19] = 1, 2, 5, 6
		m.rotation(3).apply(x, m.HeadDim)
		cos, sin := float32(math.Cos(3)), float32(math.Sin(3))
		if x[0] != cos || x[partner] != sin || x[10] != 2*cos || x[10+partner] != 2*sin {
			t.Errorf("%s: %v", arch, x)
		}
		if x[8] != 5 || x[19] != 6 {
			t.Errorf("%s: values beyond the rope dimension were turned", arch)
		}
	}
}

func TestPositionZeroIsNotTurned(t *testing.T) {
	m := &Model{Config: Config{Arch: archLlama, HeadDim: 4}, Rope: Rope{[]float64{1, 0.01}, 1}}
	x := []float32{1, 2, 3, 4}
	m.rotation(0).apply(x, 4)
	if !slices.Equal(x, []float32{1, 2, 3, 4}) {
		t.Errorf("%v", x)
	}
}

func TestActivationFunctions(t *testing.T) {
	if silu(0) != 0 || silu(-1e4) != 0 || silu(100) != 100 || math.Abs(float64(silu(1))-0.7310586) > 1e-7 {
		t.Errorf("silu: %v %v %v %v", silu(0), silu(-1e4), silu(100), silu(1))
	}
	if squaredRelu(-3) != 0 || squaredRelu(3) != 9 {
		t.Errorf("squared relu: %v %v", squaredRelu(-3), squaredRelu(3))
	}
}

func TestSoftmaxSurvivesLargeScores(t *testing.T) {
	x := []float32{1000, 1000, -1000}
	Softmax(x)
	if !slices.Equal(x, []float32{0.5, 0.5, 0}) {
		t.Errorf("%v", x)
	}
}

func TestRMSNormOfAKnownVector(t *testing.T) {
	// The mean square of 3, 4 with eps 3.5 is 16: the inverse root is 1/4.
	if out := rmsNorm([]float32{3, 4}, []float32{2, 1}, 3.5); !slices.Equal(out, []float32{1.5, 1}) {
		t.Errorf("%v", out)
	}
}
