// What tests/oracle/check_compat.py drives: the scale that our observer makes of given activations.
//
//   scale_tool      reads points from standard input until it ends, prints the F32 bits of each
//                   one's scale, in hexadecimal, a line each. A point is little endian
//                     u32 Compat, u32 DType of the stored scale, u64 count, count BF16 values.

#include <cstdio>
#include <iostream>
#include <vector>

#include "core/tensor/bare/float_bits.h"
#include "worker/quant/observer.h"
#include "worker/quant/static_scale.h"

namespace octavo {
namespace {

struct Head {
  uint32_t compat;
  uint32_t dtype;
  uint64_t count;
};

bool ReadBytes(void* to, size_t size) {
  return static_cast<bool>(
      std::cin.read(static_cast<char*>(to), static_cast<std::streamsize>(size)));
}

int Run() {
  v1::Calibration calibration;
  calibration.set_observer(v1::OBSERVER_ABSMAX);
  for (Head head; ReadBytes(&head, sizeof(head));) {
    std::vector<uint16_t> values(head.count);
    if (!ReadBytes(values.data(), values.size() * 2) ||
        !v1::Compat_IsValid(static_cast<int>(head.compat))) {
      std::cerr << "error: a damaged point\n";
      return 65;
    }
    PointObserver observer(v1::OBSERVER_ABSMAX, BestIsa());
    const auto count = static_cast<int64_t>(values.size());
    if (observer.Add(values.data(), 1, count, count)) {
      std::cerr << "error: a value is not finite\n";
      return 65;
    }
    const auto scale =
        StaticScale(observer.ToStat(), calibration, CodeType::kFp8, static_cast<DType>(head.dtype),
                    CompatModeOf(static_cast<v1::Compat>(head.compat)));
    if (!scale.ok()) {
      std::cerr << "error: " << std::string(scale.status().message()) << "\n";
      return 65;
    }
    std::printf("%08x\n", BitsOf(*scale));
  }
  return 0;
}

}  // namespace
}  // namespace octavo

int main() { return octavo::Run(); }
