#pragma once

// cuBLASLt as a peer: opened at run time, so that octavo-gpu-check starts without it. Products of
// row-major matrices, y[rows][channels] = x[rows][depth] * w[channels][depth]^T, BF16 out.

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>

namespace octavo::gpu {

class CublasLt {
 public:
  enum class Kind {
    kFp8Tensor,  // codes; one scale for each matrix; fast accumulation off
    kFp8Outer,   // codes; a scale for every row of x and of w; fast accumulation off
    kBf16,
  };
  struct Product {
    Kind kind;
    int64_t rows, channels, depth;  // depth a multiple of 16, channels of 8
    const void* x;
    const void* w;
    const float* x_scales;
    const float* w_scales;
    void* y;
  };

  // Null, with the reason on standard output, where the library is not there.
  static std::unique_ptr<CublasLt> Open();
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  // The fastest of up to 8 ways that its heuristic offers, in microseconds, timed as Time does;
  // `copies` of w, each w_bytes, lie one behind the other and are taken in turn. 0 where it offers
  // none.
  double Time(const Product& product, int64_t w_bytes, int copies) const;

 private:
  struct Library;
  explicit CublasLt(std::unique_ptr<Library> library);
  std::unique_ptr<Library> library_;
};

}  // namespace octavo::gpu
