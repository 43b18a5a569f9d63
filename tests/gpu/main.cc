// octavo-gpu-check [--bench] [GoogleTest's flags]: runs the tests of the GPU kernels on the first
// GPU of this machine; --bench: then the benchmarks. Exit status 0: all passed; 1: some failed; 77:
// there is no GPU, nothing was checked.

#include <cuda_runtime.h>

#include <cstdio>
#include <string_view>

#include "gtest/gtest.h"
#include "tests/gpu/bench.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    std::printf("no GPU, nothing was checked: %s\n", cudaGetErrorString(error));
    return 77;
  }
  cudaDeviceProp device;
  int driver = 0;
  if (cudaGetDeviceProperties(&device, 0) != cudaSuccess ||
      cudaDriverGetVersion(&driver) != cudaSuccess) {
    std::printf("error: CUDA: %s\n", cudaGetErrorString(cudaGetLastError()));
    return 1;
  }
  std::printf("%s, sm_%d%d, %d multiprocessors, %.1f GiB, driver for CUDA %d.%d\n", device.name,
              device.major, device.minor, device.multiProcessorCount,
              static_cast<double>(device.totalGlobalMem) / (1 << 30), driver / 1000,
              driver % 1000 / 10);
  const bool bench = argc > 1 && std::string_view(argv[1]) == "--bench";
  const int failed = RUN_ALL_TESTS();
  return failed != 0 || (bench && !octavo::gpu::RunBenchmarks()) ? 1 : 0;
}
