#include "core/base/ids.h"

#include <sys/random.h>

#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {

uint64_t RandomU64() {
  uint64_t value = 0;
  OCTAVO_CHECK(getrandom(&value, sizeof value, 0) == sizeof value);
  return value;
}

std::string RandomHex(int bytes) {
  std::string out;
  while (out.size() < static_cast<size_t>(bytes) * 2) out += fmt::format("{:016x}", RandomU64());
  out.resize(static_cast<size_t>(bytes) * 2);
  return out;
}

}  // namespace octavo
