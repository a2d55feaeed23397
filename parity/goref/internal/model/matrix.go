package model

import (
	"math"

	"conform/goref/internal/parallel"
	"conform/goref/internal/quant"
)

// The fewest products that one goroutine computes.
const productsPerWorker = 1 << 16

// Matrix is the weight of a linear layer, rows of input features.
type Matrix interface {
	// Mul writes the product with x, one value per row.
	Mul(out, x []float32)
	// Row returns the weights of one row as floats.
	Row(i int) []float32
}

// Float is a matrix of float32 weights.
type Float struct {
	rows, cols int
	data       []float32
}

// Row returns the weights of one row.
func (m *Float) Row(i int) []float32 { return m.data[i*m.cols : (i+1)*m.cols] }

// Mul accumulates each row in float64, in order, and rounds once to float32.
func (m *Float) Mul(out, x []float32) {
	wide := make([]float64, len(x))
	for i, v := range x {
		wide[i] = float64(v)
	}
	parallel.Rows(m.rows, productsPerWorker/m.cols, func(from, to int) {
		row := from
		// Four rows at a time hide the latency of the additions; each row's own order stays sequential.
		for ; row+4 <= to; row += 4 {
			m.fourRows(out[row:row+4], wide, row)
		}
		for ; row < to; row++ {
			out[row] = dotWide(m.Row(row), wide)
		}
	})
}

func (m *Float) fourRows(out []float32, x []float64, row int) {
	a, b, c, d := m.Row(row), m.Row(row+1), m.Row(row+2), m.Row(row+3)
	a, b, c, d = a[:len(x)], b[:len(x)], c[:len(x)], d[:len(x)]
	var sumA, sumB, sumC, sumD float64
	for i, v := range x {
		// A product of two float32 is exact in float64, so that fusing it with the addition changes nothing.
		sumA += float64(a[i]) * v
		sumB += float64(b[i]) * v
		sumC += float64(c[i]) * v
		sumD += float64(d[i]) * v
	}
	out[0], out[1], out[2], out[3] = float32(sumA), float32(sumB), float32(sumC), float32(sumD)
}

func dotWide(row []float32, x []float64) float32 {
	var sum float64
	for i, v := range x {
		sum += float64(row[i]) * v
	}
	return float32(sum)
}

// Int8 is a ternary matrix that multiplies activations quantised to int8.
type Int8 struct {
	rows, cols int
	weights    quant.Ternary
}

// Row returns the trits of one row times the scale.
func (m *Int8) Row(i int) []float32 {
	return quant.Ternary{Trits: m.weights.Trits[i*m.cols : (i+1)*m.cols], Scale: m.weights.Scale}.Values()
}

// Mul quantises x once, sums trits times int8 in int32 and rescales in float32.
func (m *Int8) Mul(out, x []float32) {
	levels, steps := quantizeActivations(x)
	unit := m.weights.Scale / steps
	parallel.Rows(m.rows, productsPerWorker/m.cols, func(from, to int) {
		for row := from; row < to; row++ {
			out[row] = float32(dotInt8(m.weights.Trits[row*m.cols:(row+1)*m.cols], levels)) * unit
		}
	})
}

// quantizeActivations returns round-half-even(x·a) clamped to int8 and a = 127/max|x|, with max|x| at least 1e-5.
func quantizeActivations(x []float32) (levels []int8, steps float32) {
	largest := float32(1e-5)
	for _, v := range x {
		largest = max(largest, v, -v)
	}
	steps = 127 / largest
	levels = make([]int8, len(x))
	for i, v := range x {
		level := math.RoundToEven(float64(v * steps))
		levels[i] = int8(max(-128, min(127, level)))
	}
	return levels, steps
}

// dotInt8 is exact in any order: with fewer than 2^24 columns it cannot overflow.
func dotInt8(trits, levels []int8) int32 {
	var a, b, c, d int32
	for len(levels) >= 4 && len(trits) >= 4 {
		a += int32(trits[0]) * int32(levels[0])
		b += int32(trits[1]) * int32(levels[1])
		c += int32(trits[2]) * int32(levels[2])
		d += int32(trits[3]) * int32(levels[3])
		trits, levels = trits[4:], levels[4:]
	}
	for i, level := range levels {
		a += int32(trits[i]) * int32(level)
	}
	return a + b + c + d
}
