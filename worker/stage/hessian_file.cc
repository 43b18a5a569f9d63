#include "worker/stage/hessian_file.h"

#include <span>
#include <vector>

#include "core/base/fault.h"
#include "core/base/status.h"
#include "core/plan/solve_memory.h"
#include "core/store/local_store.h"
#include "worker/stage/scratch_writer.h"
#include "worker/stage/unit_run.h"

namespace octavo {

absl::Status LeaveHessian(const std::string& dir, const std::string& name, const Hessian& hessian,
                          v1::Receipt* receipt) {
  OCTAVO_ASSIGN_OR_RETURN(ScratchWriter writer,
                          ScratchWriter::Create(dir, name, HessianFileBytes(hessian.channels)));
  std::vector<float> some;
  for (int64_t i = 0; i < hessian.channels; ++i) {
    some.insert(some.end(), hessian.Row(i) + i, hessian.Row(i) + hessian.channels);
    if (some.size() * sizeof(float) < kChunkBytes && i + 1 < hessian.channels) continue;
    OCTAVO_RETURN_IF_ERROR(writer.Append(std::as_bytes(std::span(some))));
    some.clear();
  }
  FaultPoint("mid-write");
  return writer.Finish(receipt);
}

absl::Status ReadHessianRows(const std::string& path, int64_t channels,
                             const std::function<void(int64_t i, const float* from)>& take) {
  const LocalStore store;
  std::vector<float> some;
  uint64_t at = 0;
  for (int64_t row = 0; row < channels;) {
    int64_t end = row;
    int64_t count = 0;
    while (end < channels && static_cast<uint64_t>(count) * sizeof(float) < kChunkBytes) {
      count += channels - end++;
    }
    some.resize(static_cast<size_t>(count));
    OCTAVO_RETURN_IF_ERROR(store.ReadAt(path, at, std::as_writable_bytes(std::span(some))));
    at += some.size() * sizeof(float);
    const float* from = some.data();
    for (; row < end; ++row) {
      take(row, from);
      from += channels - row;
    }
  }
  return absl::OkStatus();
}

}  // namespace octavo
