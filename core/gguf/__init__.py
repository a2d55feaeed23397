"""GGUF: types, an independent reader, a writer, importance matrices."""
