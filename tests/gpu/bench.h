#pragma once

// Benchmarks of octavo-gpu-check (--bench): each operation's time beside what the same GPU copies
// and reads in the same run. Prints a table in Markdown.

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace octavo::gpu {

// Memory of the GPU, filled with random BF16 numbers of deviation 1 (or bytes of random codes).
class DeviceBytes {
 public:
  enum class Fill { kZero, kBf16, kFp8 };
  DeviceBytes(size_t size, Fill fill);  // ends the process where there is none
  ~DeviceBytes() { cudaFree(data_); }
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

// One line of the table.
struct Figure {
  std::string operation;
  std::string shape;
  double microseconds = 0;
  double bytes = 0;  // that the operation must read and write
  double flops = 0;
  double peer_microseconds = 0;  // a library's time for the same; 0: none
};

// The median time of one call, in microseconds: calls go into a CUDA graph of 32, call i may choose
// among buffers by i (more than the L2 cache holds, so that weights are cold), five rounds.
double Time(const std::function<void(cudaStream_t stream, int i)>& call);

void MeasureQuantize(std::vector<Figure>* figures);
void MeasureAttention(std::vector<Figure>* figures);
void MeasureDense(std::vector<Figure>* figures);
void MeasureRows(std::vector<Figure>* figures);

// Measures everything and prints it. False where CUDA failed.
bool RunBenchmarks();

}  // namespace octavo::gpu
