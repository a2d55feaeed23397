package gguf

import (
	"fmt"
	"math/bits"
	"slices"
)

// Tensor is one descriptor. Dims[0] is the contiguous dimension (the columns, input features).
type Tensor struct {
	Name   string
	Dims   []uint64
	Type   Type
	Offset uint64 // absolute, in bytes
	Bytes  uint64
	Count  uint64 // number of values
}

// Cols is the length of a row.
func (t Tensor) Cols() int { return int(t.Dims[0]) }

// Rows is the number of rows.
func (t Tensor) Rows() int { return int(t.Count / t.Dims[0]) }

func readTensor(c *cursor) (Tensor, error) {
	var t Tensor
	var err error
	if t.Name, err = c.text(maxName, "name of a tensor"); err != nil {
		return t, err
	}
	dims, err := c.u32("number of dimensions of " + t.Name)
	if err != nil {
		return t, err
	}
	if dims < 1 || dims > 4 {
		return t, fmt.Errorf("tensor %s has %d dimensions, expected 1 to 4", t.Name, dims)
	}
	for range dims {
		dim, err := c.u64("shape of " + t.Name)
		if err != nil {
			return t, err
		}
		t.Dims = append(t.Dims, dim)
	}
	id, err := c.u32("type of " + t.Name)
	if err != nil {
		return t, err
	}
	t.Type = Type(id)
	if t.Offset, err = c.u64("offset of " + t.Name); err != nil {
		return t, err
	}
	return t, t.measure()
}

// measure fills Count and Bytes.
func (t *Tensor) measure() error {
	t.Count = 1
	for _, dim := range t.Dims {
		high, low := bits.Mul64(t.Count, dim)
		if dim == 0 || high != 0 || low > 1<<48 {
			return fmt.Errorf("tensor %s has the impossible shape %v", t.Name, t.Dims)
		}
		t.Count = low
	}
	size, err := t.Type.size(t.Dims[0], t.Count)
	if err != nil {
		return fmt.Errorf("tensor %s: %w", t.Name, err)
	}
	t.Bytes = size
	return nil
}

// place turns relative offsets into absolute ones; tensors must be aligned, lie within the file and not overlap.
func place(tensors []Tensor, start, size, alignment uint64) error {
	for i := range tensors {
		t := &tensors[i]
		if t.Offset%alignment != 0 {
			return fmt.Errorf("tensor %s at offset %d is not aligned to %d", t.Name, t.Offset, alignment)
		}
		if start > size || t.Offset > size-start || t.Bytes > size-start-t.Offset {
			return fmt.Errorf("tensor %s (offset %d, %d bytes) reaches beyond the end of the file of %d bytes",
				t.Name, t.Offset, t.Bytes, size)
		}
		t.Offset += start
	}
	order := slices.Clone(tensors)
	slices.SortFunc(order, func(a, b Tensor) int {
		switch {
		case a.Offset < b.Offset:
			return -1
		case a.Offset > b.Offset:
			return 1
		}
		return 0
	})
	for i := 1; i < len(order); i++ {
		if before := order[i-1]; before.Offset+before.Bytes > order[i].Offset {
			return fmt.Errorf("tensors %s and %s overlap", before.Name, order[i].Name)
		}
	}
	return nil
}
