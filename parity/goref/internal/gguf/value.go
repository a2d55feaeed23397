package gguf

import (
	"encoding/binary"
	"fmt"
)

// Ids of metadata value types, in the order of the format.
const (
	typeU8 = iota
	typeI8
	typeU16
	typeI16
	typeU32
	typeI32
	typeF32
	typeBool
	typeString
	typeArray
	typeU64
	typeI64
	typeF64
)

var scalarBytes = map[uint32]uint64{
	typeU8: 1, typeI8: 1, typeU16: 2, typeI16: 2, typeU32: 4, typeI32: 4, typeF32: 4, typeBool: 1,
	typeU64: 8, typeI64: 8, typeF64: 8,
}

// readValue reads one metadata value: a Go scalar, a string, or a slice of either.
func readValue(c *cursor, key string) (any, error) {
	id, err := c.u32("value type of " + key)
	if err != nil {
		return nil, err
	}
	switch id {
	case typeString:
		return c.text(maxString, "value of "+key)
	case typeArray:
		return readArray(c, key)
	}
	size, known := scalarBytes[id]
	if !known {
		return nil, fmt.Errorf("%s has the unknown value type %d", key, id)
	}
	raw, err := c.bytes(size, "value of "+key)
	if err != nil {
		return nil, err
	}
	return scalar(id, raw, key)
}

func scalar(id uint32, raw []byte, key string) (any, error) {
	switch id {
	case typeU8:
		return raw[0], nil
	case typeI8:
		return int8(raw[0]), nil
	case typeU16:
		return binary.LittleEndian.Uint16(raw), nil
	case typeI16:
		return int16(binary.LittleEndian.Uint16(raw)), nil
	case typeU32:
		return binary.LittleEndian.Uint32(raw), nil
	case typeI32:
		return int32(binary.LittleEndian.Uint32(raw)), nil
	case typeF32:
		return float32At(raw), nil
	case typeU64:
		return binary.LittleEndian.Uint64(raw), nil
	case typeI64:
		return int64(binary.LittleEndian.Uint64(raw)), nil
	case typeF64:
		return float64At(raw), nil
	}
	if raw[0] > 1 {
		return nil, fmt.Errorf("%s is a bool of value %d, expected 0 or 1", key, raw[0])
	}
	return raw[0] == 1, nil
}

func readArray(c *cursor, key string) (any, error) {
	id, err := c.u32("element type of " + key)
	if err != nil {
		return nil, err
	}
	count, err := c.u64("length of " + key)
	if err != nil {
		return nil, err
	}
	if id == typeString {
		return readStrings(c, key, count)
	}
	size, known := scalarBytes[id]
	if !known {
		return nil, fmt.Errorf("%s is an array of the element type %d; only scalars and strings are read", key, id)
	}
	if err := c.need(count, size, "array "+key); err != nil {
		return nil, err
	}
	raw, err := c.bytes(count*size, "array "+key)
	if err != nil {
		return nil, err
	}
	return scalars(id, raw, key)
}

// A string takes at least the eight bytes of its length.
func readStrings(c *cursor, key string, count uint64) (any, error) {
	if err := c.need(count, 8, "array "+key); err != nil {
		return nil, err
	}
	out := make([]string, 0, count)
	for i := range count {
		text, err := c.text(maxName, fmt.Sprintf("element %d of %s", i, key))
		if err != nil {
			return nil, err
		}
		out = append(out, text)
	}
	return out, nil
}

func scalars(id uint32, raw []byte, key string) (any, error) {
	switch id {
	case typeI32:
		return each(raw, 4, func(b []byte) int32 { return int32(binary.LittleEndian.Uint32(b)) }), nil
	case typeU32:
		return each(raw, 4, binary.LittleEndian.Uint32), nil
	case typeF32:
		return each(raw, 4, float32At), nil
	case typeBool:
		for i, b := range raw {
			if b > 1 {
				return nil, fmt.Errorf("element %d of %s is a bool of value %d, expected 0 or 1", i, key, b)
			}
		}
	}
	// No key that goref reads has another element type: the bytes are kept, not interpreted.
	return raw, nil
}

func each[T any](raw []byte, size int, decode func([]byte) T) []T {
	out := make([]T, len(raw)/size)
	for i := range out {
		out[i] = decode(raw[i*size:])
	}
	return out
}
