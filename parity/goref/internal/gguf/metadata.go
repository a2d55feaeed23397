package gguf

import (
	"fmt"
	"math"
)

// Metadata maps a key to its value. The typed accessors fail on a missing key: there are no defaults.
type Metadata map[string]any

// Has reports whether the key is there.
func (m Metadata) Has(key string) bool {
	_, found := m[key]
	return found
}

func lookup[T any](m Metadata, key, kind string) (T, error) {
	var none T
	value, found := m[key]
	if !found {
		return none, fmt.Errorf("key %s is missing", key)
	}
	typed, ok := value.(T)
	if !ok {
		return none, fmt.Errorf("key %s is %T, expected %s", key, value, kind)
	}
	return typed, nil
}

// Text returns a string value.
func (m Metadata) Text(key string) (string, error) { return lookup[string](m, key, "a string") }

// Bool returns a bool value.
func (m Metadata) Bool(key string) (bool, error) { return lookup[bool](m, key, "a bool") }

// Texts returns an array of strings.
func (m Metadata) Texts(key string) ([]string, error) {
	return lookup[[]string](m, key, "an array of strings")
}

// Floats returns an array of f32.
func (m Metadata) Floats(key string) ([]float32, error) {
	return lookup[[]float32](m, key, "an array of f32")
}

// Ints returns an array of i32.
func (m Metadata) Ints(key string) ([]int32, error) {
	return lookup[[]int32](m, key, "an array of i32")
}

// Count returns a u32, u64, i32 or i64 value from 0 to 2^31-1.
func (m Metadata) Count(key string) (int, error) {
	value, err := lookup[any](m, key, "")
	if err != nil {
		return 0, err
	}
	count := int64(-1)
	switch v := value.(type) {
	case uint32:
		count = int64(v)
	case int32:
		count = int64(v)
	case int64:
		count = v
	case uint64:
		count = int64(min(v, math.MaxInt64))
	default:
		return 0, fmt.Errorf("key %s is %T, expected a u32, u64, i32 or i64", key, value)
	}
	if count < 0 || count > math.MaxInt32 {
		return 0, fmt.Errorf("key %s = %v, expected 0 to %d", key, value, math.MaxInt32)
	}
	return int(count), nil
}

// Float returns a finite f32 or f64 value, rounded to f32.
func (m Metadata) Float(key string) (float32, error) {
	value, err := lookup[any](m, key, "")
	if err != nil {
		return 0, err
	}
	var number float32
	switch v := value.(type) {
	case float32:
		number = v
	case float64:
		number = float32(v)
	default:
		return 0, fmt.Errorf("key %s is %T, expected an f32 or f64", key, value)
	}
	if math.IsNaN(float64(number)) || math.IsInf(float64(number), 0) {
		return 0, fmt.Errorf("key %s = %v, expected a finite number", key, value)
	}
	return number, nil
}
