#include "tests/gpu/bench.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "core/tensor/bare/float_bits.h"
#include "kernels/cuda/quantize/quantize.h"

namespace octavo::gpu {
namespace {

constexpr int kCalls = 32;
constexpr int kRounds = 5;
constexpr double kGiga = 1e9;

void Check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "error: CUDA: %s\n", cudaGetErrorString(error));
  std::exit(1);
}

// What the GPU copies (read and written) and reads, in bytes a second.
struct Ceilings {
  double copy = 0;
  double read = 0;
};

Ceilings MeasureCeilings() {
  constexpr size_t kBytes = size_t{1} << 30;
  const DeviceBytes from(kBytes, DeviceBytes::Fill::kBf16);
  const DeviceBytes to(kBytes, DeviceBytes::Fill::kZero);
  const DeviceBytes maxima(4096 * sizeof(uint32_t), DeviceBytes::Fill::kZero);
  const double copy = Time([&](cudaStream_t stream, int) {
    Check(
        cudaMemcpyAsync(to.as<void>(), from.as<void>(), kBytes, cudaMemcpyDeviceToDevice, stream));
  });
  const double read = Time([&](cudaStream_t stream, int) {
    constexpr int64_t kRows = 4096;
    Launch(cuda::AmaxTiles{from.as<void>(), SourceType::kBf16, kRows, kBytes / 2 / kRows, 1,
                           kBytes / 2 / kRows, maxima.as<uint32_t>()},
           stream);
  });
  return {2.0 * kBytes / copy * 1e6, kBytes / read * 1e6};
}

void Print(const Ceilings& ceilings, const std::vector<Figure>& figures) {
  std::printf("\nCopy (read and write) %.0f GB/s, read alone %.0f GB/s.\n\n", ceilings.copy / kGiga,
              ceilings.read / kGiga);
  std::printf(
      "| operation | shape | us | GB/s | of copy | TFLOP/s | a library's time over ours |\n");
  std::printf("|---|---|---|---|---|---|---|\n");
  for (const Figure& f : figures) {
    const double rate = f.bytes / f.microseconds * 1e6;
    std::printf("| %s | %s | %.1f | %.0f | %.2f | ", f.operation.c_str(), f.shape.c_str(),
                f.microseconds, rate / kGiga, rate / ceilings.copy);
    if (f.flops > 0) std::printf("%.1f", f.flops / f.microseconds / 1e6);
    std::printf(" | ");
    if (f.peer_microseconds > 0) std::printf("%.2f", f.peer_microseconds / f.microseconds);
    std::printf(" |\n");
  }
}

}  // namespace

DeviceBytes::DeviceBytes(size_t size, Fill fill) {
  Check(cudaMalloc(&data_, size));
  if (fill == Fill::kZero) {
    Check(cudaMemset(data_, 0, size));
    return;
  }
  // Some MiB of random numbers, over and over.
  std::mt19937 random(static_cast<uint32_t>(size));
  std::normal_distribution<float> normal;
  std::vector<uint8_t> block(std::min(size, size_t{8} << 20));
  for (size_t i = 0; i < block.size(); i += 2) {
    const uint16_t bits = fill == Fill::kBf16 ? Bf16FromF32(normal(random))
                                              : static_cast<uint16_t>(random() & 0xbfbf);  // no NaN
    block[i] = static_cast<uint8_t>(bits);
    if (i + 1 < block.size()) block[i + 1] = static_cast<uint8_t>(bits >> 8);
  }
  for (size_t at = 0; at < size; at += block.size()) {
    Check(cudaMemcpy(static_cast<std::byte*>(data_) + at, block.data(),
                     std::min(block.size(), size - at), cudaMemcpyHostToDevice));
  }
}

double Time(const std::function<void(cudaStream_t, int)>& call) {
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  cudaEvent_t begin = nullptr, end = nullptr;
  Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  Check(cudaEventCreate(&begin));
  Check(cudaEventCreate(&end));
  call(stream, 0);  // what is loaded lazily is loaded before the capture
  Check(cudaStreamSynchronize(stream));
  Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < kCalls; ++i) call(stream, i);
  Check(cudaStreamEndCapture(stream, &graph));
  Check(cudaGraphInstantiate(&exec, graph, 0));
  std::vector<double> times;
  for (int round = -1; round < kRounds; ++round) {
    Check(cudaEventRecord(begin, stream));
    Check(cudaGraphLaunch(exec, stream));
    Check(cudaEventRecord(end, stream));
    Check(cudaEventSynchronize(end));
    float milliseconds = 0;
    Check(cudaEventElapsedTime(&milliseconds, begin, end));
    if (round >= 0) times.push_back(milliseconds * 1e3 / kCalls);
  }
  std::sort(times.begin(), times.end());
  Check(cudaGraphExecDestroy(exec));
  Check(cudaGraphDestroy(graph));
  Check(cudaEventDestroy(begin));
  Check(cudaEventDestroy(end));
  Check(cudaStreamDestroy(stream));
  return times[kRounds / 2];
}

bool RunBenchmarks() {
  const Ceilings ceilings = MeasureCeilings();
  std::vector<Figure> figures;
  MeasureQuantize(&figures);
  MeasureRows(&figures);
  MeasureAttention(&figures);
  MeasureDense(&figures);
  Print(ceilings, figures);
  return cudaGetLastError() == cudaSuccess;
}

}  // namespace octavo::gpu
