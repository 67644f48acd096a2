"""The ops: one file a family, each op declared once with its kernel, shape rule, gradient rule, reference and samples."""
