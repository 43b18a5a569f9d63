#pragma once

// The scratch folder of a calibrated job, which lies beside its staging folder. Every file appears
// by a rename. Those that lie there for long are synced before the Receipt that lists them is sent;
// what Hessians are made of is large and short-lived, and is not: whoever resumes a job compares
// digests.
//
//   ids             token ids of all samples, I32 little endian, one sample after the other
//   rows-L-B        BF16 [tokens of micro-batch B][hidden]: the residual stream that goes into
//                   layer L; removed when nothing needs it any more
//   stats-L-B       v1::LayerStats: what layer L showed of micro-batch B
//   kept-L-B-P      BF16 [rows][channels]: what the linear layers at point P (v1::ObservedPoint) of
//                   layer L read of micro-batch B; of experts, as many rows as stats-L-B says, one
//                   expert after the other
//   fold-L-P        I8 [channels]: exponents of the powers of two that smoothing folds into the
//                   weights that read point P of layer L
//   hessian-L-P-I   F32: leaf I of the Hessian at point P, the upper triangle row after row; of a
//                   mixture's experts only I = 0, which is of rows of all of them

#include <cstdint>
#include <string>
#include <string_view>

#include "fmt/format.h"

namespace octavo {

inline constexpr char kIdsFileName[] = "ids";

inline std::string RowsFileName(uint32_t layer, uint32_t batch) {
  return fmt::format("rows-{}-{}", layer, batch);
}
inline std::string StatsFileName(uint32_t layer, uint32_t batch) {
  return fmt::format("stats-{}-{}", layer, batch);
}
inline std::string KeptFileName(uint32_t layer, uint32_t batch, int point) {
  return fmt::format("kept-{}-{}-{}", layer, batch, point);
}
inline std::string FoldFileName(uint32_t layer, int point) {
  return fmt::format("fold-{}-{}", layer, point);
}
inline std::string HessianFileName(uint32_t layer, int point, uint32_t leaf) {
  return fmt::format("hessian-{}-{}-{}", layer, point, leaf);
}
inline bool IsSynced(std::string_view name) {
  return !name.starts_with("kept-") && !name.starts_with("hessian-");
}

}  // namespace octavo
