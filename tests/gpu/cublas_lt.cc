#include "tests/gpu/cublas_lt.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <array>
#include <cstdio>
#include <utility>

#include "tests/gpu/bench.h"

namespace octavo::gpu {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;
constexpr int kWays = 8;

// A function of the library, by its declaration.
template <typename Function>
bool Find(void* library, const char* name, Function** function) {
  *function = reinterpret_cast<Function*>(dlsym(library, name));
  return *function != nullptr;
}

}  // namespace

struct CublasLt::Library {
  void* handle = nullptr;
  cublasLtHandle_t lt = nullptr;
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtMatmulDescCreate) desc_create = nullptr;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) layout_create = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;

  bool FindAll() {
    return Find(handle, "cublasLtCreate", &create) && Find(handle, "cublasLtDestroy", &destroy) &&
           Find(handle, "cublasLtMatmul", &matmul) &&
           Find(handle, "cublasLtMatmulDescCreate", &desc_create) &&
           Find(handle, "cublasLtMatmulDescDestroy", &desc_destroy) &&
           Find(handle, "cublasLtMatmulDescSetAttribute", &desc_set) &&
           Find(handle, "cublasLtMatrixLayoutCreate", &layout_create) &&
           Find(handle, "cublasLtMatrixLayoutDestroy", &layout_destroy) &&
           Find(handle, "cublasLtMatmulPreferenceCreate", &preference_create) &&
           Find(handle, "cublasLtMatmulPreferenceDestroy", &preference_destroy) &&
           Find(handle, "cublasLtMatmulPreferenceSetAttribute", &preference_set) &&
           Find(handle, "cublasLtMatmulAlgoGetHeuristic", &heuristic);
  }
};

CublasLt::CublasLt(std::unique_ptr<Library> library) : library_(std::move(library)) {}

CublasLt::~CublasLt() {
  library_->destroy(library_->lt);
  dlclose(library_->handle);
}

std::unique_ptr<CublasLt> CublasLt::Open() {
  auto library = std::make_unique<Library>();
  for (const char* name : {"libcublasLt.so.13", "libcublasLt.so"}) {
    library->handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library->handle != nullptr) break;
  }
  if (library->handle == nullptr || !library->FindAll() ||
      library->create(&library->lt) != CUBLAS_STATUS_SUCCESS) {
    std::printf("cuBLASLt is not here, no peer's times: %s\n",
                library->handle == nullptr ? dlerror() : "it does not start");
    if (library->handle != nullptr) dlclose(library->handle);
    return nullptr;
  }
  return std::unique_ptr<CublasLt>(new CublasLt(std::move(library)));
}

// To a library of column-major matrices, w is depth x channels, to be transposed, x depth x rows,
// and y channels x rows.
double CublasLt::Time(const Product& product, int64_t w_bytes, int copies) const {
  const Library& lib = *library_;
  const bool bf16 = product.kind == Kind::kBf16;
  const cudaDataType_t type = bf16 ? CUDA_R_16BF : CUDA_R_8F_E4M3;
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, d = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  lib.desc_create(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  const auto set = [&](cublasLtMatmulDescAttributes_t name, const auto& value) {
    lib.desc_set(desc, name, &value, sizeof(value));
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  set(CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
  if (!bf16) {
    set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, int8_t{0});
    set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, product.w_scales);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, product.x_scales);
    const int32_t mode = product.kind == Kind::kFp8Outer
                             ? CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F
                             : CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F;
    set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, mode);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, mode);
  }
  const auto depth = static_cast<uint64_t>(product.depth);
  const auto channels = static_cast<uint64_t>(product.channels);
  const auto rows = static_cast<uint64_t>(product.rows);
  lib.layout_create(&a, type, depth, channels, product.depth);
  lib.layout_create(&b, type, depth, rows, product.depth);
  lib.layout_create(&d, CUDA_R_16BF, channels, rows, product.channels);
  lib.preference_create(&preference);
  lib.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspaceBytes,
                     sizeof(kWorkspaceBytes));
  std::array<cublasLtMatmulHeuristicResult_t, kWays> ways{};
  int found = 0;
  if (lib.heuristic(lib.lt, desc, a, b, d, d, preference, kWays, ways.data(), &found) !=
      CUBLAS_STATUS_SUCCESS) {
    found = 0;
  }
  const DeviceBytes workspace(kWorkspaceBytes, DeviceBytes::Fill::kZero);
  double best = 0;
  for (int way = 0; way < found; ++way) {
    const double time = gpu::Time([&](cudaStream_t stream, int i) {
      const float one = 1, zero = 0;
      const auto* w = static_cast<const std::byte*>(product.w) + i % copies * w_bytes;
      lib.matmul(lib.lt, desc, &one, w, a, product.x, b, &zero, product.y, d, product.y, d,
                 &ways[static_cast<size_t>(way)].algo, workspace.as<void>(), kWorkspaceBytes,
                 stream);
    });
    if (best == 0 || time < best) best = time;
  }
  lib.preference_destroy(preference);
  lib.layout_destroy(a);
  lib.layout_destroy(b);
  lib.layout_destroy(d);
  lib.desc_destroy(desc);
  return best;
}

}  // namespace octavo::gpu
