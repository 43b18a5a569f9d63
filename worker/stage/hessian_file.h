#pragma once

// The upper triangle of a Hessian in a file of the scratch folder, row after row, F32. Private to
// worker/stage.

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "octavo/v1/task.pb.h"
#include "worker/quant/solve/hessian.h"

namespace octavo {

// Writes the file `name` of `dir` and adds it to the receipt. kDiskFull, kIo.
absl::Status LeaveHessian(const std::string& dir, const std::string& name, const Hessian& hessian,
                          v1::Receipt* receipt);

// Calls `take(i, from)` for every row, ascending: `from` begins with the diagonal element. Holds
// about a megabyte. kInputMissing, kIo.
absl::Status ReadHessianRows(const std::string& path, int64_t channels,
                             const std::function<void(int64_t i, const float* from)>& take);

}  // namespace octavo
