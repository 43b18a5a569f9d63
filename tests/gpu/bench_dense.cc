// Products of linear layers, beside cuBLASLt's: shapes (channels x depth) of one rank.

#include <algorithm>
#include <vector>

#include "kernels/cuda/dense/dense.h"
#include "tests/gpu/bench.h"
#include "tests/gpu/cublas_lt.h"

namespace octavo::gpu {
namespace {

using Fill = DeviceBytes::Fill;

struct Layer {
  const char* name;
  int64_t channels, depth;
};
constexpr Layer kLayers[] = {{"Mixtral-8x22B qkv", 8192, 6144},
                             {"Mixtral-8x22B o", 6144, 6144},
                             {"Llama-3.1-8B gate+up", 28672, 4096},
                             {"Llama-3.1-8B down", 4096, 14336},
                             {"Llama-3.1-8B down, TP 4", 4096, 3584}};
constexpr int64_t kRowCounts[] = {1, 16, 64, 256, 4096};
constexpr int64_t kRowsMax = 4096;
// Weights are cold: copies of them fill more than the L2 cache.
constexpr int64_t kColdBytes = int64_t{256} << 20;

struct Types {
  const char* name;
  cuda::DenseTypes types;
  CublasLt::Kind peer;
  bool has_peer;
  int64_t x_bytes, w_bytes;  // of an element
};
constexpr Types kTypes[] = {
    {"FP8", cuda::DenseTypes::kFp8, CublasLt::Kind::kFp8Outer, true, 1, 1},
    {"INT8", cuda::DenseTypes::kInt8, CublasLt::Kind::kFp8Outer, false, 1, 1},
    {"BF16", cuda::DenseTypes::kBf16, CublasLt::Kind::kBf16, true, 2, 2},
    {"BF16 x FP8", cuda::DenseTypes::kBf16Fp8, CublasLt::Kind::kBf16, false, 2, 1}};

Figure MeasureOne(const Types& types, const Layer& layer, int64_t rows, const CublasLt* peer,
                  const DeviceBytes& x, const DeviceBytes& weights, int copies,
                  const DeviceBytes& scales, const DeviceBytes& y) {
  const int64_t w_bytes = layer.channels * layer.depth * types.w_bytes;
  cuda::Dense call;
  call.types = types.types;
  call.rows = rows;
  call.channels = layer.channels;
  call.depth = call.x_stride = call.w_stride = layer.depth;
  call.x = x.as<void>();
  call.w = weights.as<void>();
  call.finish.row_scales = call.finish.channel_scales = scales.as<float>();
  call.finish.out = y.as<uint16_t>();
  call.finish.stride = layer.channels;
  const DeviceBytes workspace(static_cast<size_t>(cuda::DenseWorkspaceBytes(call)) + 1,
                              Fill::kZero);
  call.workspace = workspace.as<void>();
  Figure figure{std::string("product ") + types.name,
                std::string(layer.name) + ", " + std::to_string(rows) + " rows"};
  figure.microseconds = Time([&](cudaStream_t stream, int i) {
    call.w = weights.as<std::byte>() + i % copies * w_bytes;
    Launch(call, stream);
  });
  if (peer != nullptr && types.has_peer) {
    figure.peer_microseconds =
        peer->Time({types.peer, rows, layer.channels, layer.depth, x.as<void>(), weights.as<void>(),
                    scales.as<float>(), scales.as<float>(), y.as<void>()},
                   w_bytes, copies);
  }
  figure.bytes =
      static_cast<double>(w_bytes + rows * layer.depth * types.x_bytes + rows * layer.channels * 2);
  figure.flops = 2.0 * static_cast<double>(rows * layer.channels * layer.depth);
  return figure;
}

}  // namespace

void MeasureDense(std::vector<Figure>* figures) {
  const auto peer = CublasLt::Open();
  const DeviceBytes scales(size_t{1} << 18, Fill::kZero);
  for (const Types& types : kTypes) {
    for (const Layer& layer : kLayers) {
      const int64_t w_bytes = layer.channels * layer.depth * types.w_bytes;
      const auto copies = static_cast<int>(std::max<int64_t>(kColdBytes / w_bytes, 1) + 1);
      const DeviceBytes weights(static_cast<size_t>(w_bytes * copies),
                                types.w_bytes == 1 ? Fill::kFp8 : Fill::kBf16);
      const DeviceBytes x(static_cast<size_t>(kRowsMax * layer.depth * types.x_bytes),
                          types.x_bytes == 1 ? Fill::kFp8 : Fill::kBf16);
      const DeviceBytes y(static_cast<size_t>(kRowsMax * layer.channels * 2), Fill::kZero);
      for (const int64_t rows : kRowCounts) {
        figures->push_back(
            MeasureOne(types, layer, rows, peer.get(), x, weights, copies, scales, y));
      }
    }
  }
}

}  // namespace octavo::gpu
