#pragma once

// The scratch folder of a calibrated job, which lies beside its staging folder. Every file appears
// by a rename and is synced before the Receipt that lists it is sent.
//
//   ids             token ids of all samples, I32 little endian, one sample after the other
//   rows-L-B        BF16 [tokens of micro-batch B][hidden]: the residual stream that goes into
//                   layer L; removed when nothing needs it any more
//   stats-L-B       v1::LayerStats: what layer L showed of micro-batch B

#include <cstdint>
#include <string>

#include "fmt/format.h"

namespace octavo {

inline constexpr char kIdsFileName[] = "ids";

inline std::string RowsFileName(uint32_t layer, uint32_t batch) {
  return fmt::format("rows-{}-{}", layer, batch);
}
inline std::string StatsFileName(uint32_t layer, uint32_t batch) {
  return fmt::format("stats-{}-{}", layer, batch);
}

}  // namespace octavo
