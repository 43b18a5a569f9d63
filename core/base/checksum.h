#pragma once

// XXH3-128, the digest of everything Octavo writes and of logits.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace octavo {

struct Digest128 {
  uint64_t low = 0;
  uint64_t high = 0;
  bool operator==(const Digest128&) const = default;

  std::string Hex() const;  // 32 lower-case digits, high half first
  static std::optional<Digest128> FromHex(std::string_view hex);
};

Digest128 DigestOf(std::span<const std::byte> bytes);
Digest128 DigestOf(std::string_view bytes);

// The same over bytes that come in pieces.
class DigestStream {
 public:
  DigestStream();
  ~DigestStream();
  DigestStream(DigestStream&&) noexcept;
  DigestStream& operator=(DigestStream&&) noexcept;
  void Add(std::span<const std::byte> bytes);
  void Add(std::string_view bytes);
  Digest128 Finish() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace octavo
