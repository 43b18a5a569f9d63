#pragma once

// Random identifiers and tokens.

#include <cstdint>
#include <string>

namespace octavo {

// `bytes` random bytes of the operating system as lower-case hex.
std::string RandomHex(int bytes);
uint64_t RandomU64();

}  // namespace octavo
