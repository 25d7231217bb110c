"""The environment variables of a process under each backend."""

QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
JAX = {"KERAS_BACKEND": "jax", "XLA_FLAGS": QUICK}  # halves the time to compile, most of a test's
TENSORFLOW = {"KERAS_BACKEND": "tensorflow", "XLA_FLAGS": ""}
ENVIRONMENTS = {"jax": JAX, "tensorflow": TENSORFLOW}
