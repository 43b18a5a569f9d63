#pragma once

// 2:4 rows of eight-bit codes, stored in half: of every four adjacent columns (0..3, 4..7, ...) two
// codes are kept, in order, and a bitmask says which two: a bit per column, of a byte the lowest
// first, every row beginning with a byte. A row of K columns (a multiple of four) takes K/2 codes
// and BitmaskRowBytes(K) bytes of mask. Exactly two of every four are kept, also where fewer differ
// from zero: then those that do, and of the others the ones with the lowest columns.
//
// A negative zero of FP8 is kept where there is room for it and becomes a positive one otherwise;
// products do not tell the two apart.

#include <array>
#include <cstdint>
#include <cstring>

namespace octavo {

inline constexpr int64_t BitmaskRowBytes(int64_t columns) { return (columns + 7) / 8; }

namespace two_of_four {

struct Pair {
  uint8_t mask = 0;  // bits 0..3; two are set, or the pair is none
  uint8_t first = 0, second = 0;
};

// By set of columns. Of sets with fewer than two: with the lowest of the others added.
inline constexpr std::array<Pair, 16> kFilled = [] {
  std::array<Pair, 16> pairs;
  for (unsigned set = 0; set < 16; ++set) {
    unsigned mask = set;
    int count = 0;
    for (unsigned bit = 0; bit < 4; ++bit) count += (set >> bit & 1u) != 0 ? 1 : 0;
    for (unsigned bit = 0; bit < 4 && count < 2; ++bit) {
      if ((mask >> bit & 1u) != 0) continue;
      mask |= 1u << bit;
      ++count;
    }
    if (count > 2) continue;
    Pair& pair = pairs[set];
    pair.mask = static_cast<uint8_t>(mask);
    while ((mask >> pair.first & 1u) == 0) ++pair.first;
    pair.second = static_cast<uint8_t>(pair.first + 1);
    while ((mask >> pair.second & 1u) == 0) ++pair.second;
  }
  return pairs;
}();

// The bytes of a word that are not zero, as bits 0..3.
inline constexpr unsigned NonZeroBytes(uint32_t word) {
  const uint32_t high = (((word & 0x7f7f7f7fu) + 0x7f7f7f7fu) | word) & 0x80808080u;
  return ((high >> 7) * 0x10204080u) >> 28;
}

}  // namespace two_of_four

// Packs a row of codes: columns/2 of them into `kept`, which may be where `codes` is or lie before
// it, and the mask into `bits`. `signs`: the top bit alone is a zero (FP8). Returns the first of
// four columns of which more than two differ from zero, in which case nothing is said of the
// outputs; -1 if there is none. REQUIRES: columns is a multiple of four.
inline int64_t PackTwoOfFour(const uint8_t* codes, int64_t columns, bool signs, uint8_t* kept,
                             uint8_t* bits) {
  const uint32_t magnitudes = signs ? 0x7f7f7f7fu : 0xffffffffu;
  for (int64_t column = 0; column < columns; column += 4) {
    uint8_t four[4];
    std::memcpy(four, codes + column, 4);
    uint32_t word = 0;
    std::memcpy(&word, four, 4);
    two_of_four::Pair pair = two_of_four::kFilled[two_of_four::NonZeroBytes(word)];
    if (pair.mask == 0) pair = two_of_four::kFilled[two_of_four::NonZeroBytes(word & magnitudes)];
    if (pair.mask == 0) return column;
    kept[column / 2] = four[pair.first];
    kept[column / 2 + 1] = four[pair.second];
    if (column % 8 == 0) {
      bits[column / 8] = pair.mask;
    } else {
      bits[column / 8] = static_cast<uint8_t>(bits[column / 8] | pair.mask << 4);
    }
  }
  return -1;
}

// The reverse. Returns the first of four columns of which the mask does not name two; -1 if there
// is none. REQUIRES: as above; `codes` does not overlap.
inline int64_t ExpandTwoOfFour(const uint8_t* kept, const uint8_t* bits, int64_t columns,
                               uint8_t* codes) {
  for (int64_t column = 0; column < columns; column += 4) {
    const unsigned mask = bits[column / 8] >> (column % 8) & 0xfu;
    const two_of_four::Pair pair = two_of_four::kFilled[mask];
    if (pair.mask != mask) return column;
    uint8_t four[4] = {0, 0, 0, 0};
    four[pair.first] = kept[column / 2];
    four[pair.second] = kept[column / 2 + 1];
    std::memcpy(codes + column, four, 4);
  }
  return -1;
}

}  // namespace octavo
