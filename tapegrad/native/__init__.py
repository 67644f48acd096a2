"""Native code from Python functions: typed pointers, the compiler with its disk cache, fast calls from Python."""
