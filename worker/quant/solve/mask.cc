#include "worker/quant/solve/mask.h"

#include "worker/quant/solve/coder.h"

namespace octavo {

bool IsTwoOfFour(const WeightRows& rows, int64_t row) {
  if (rows.columns % 4 != 0) return false;
  for (int64_t channel = 0; channel < rows.columns; channel += 4) {
    int zeros = 0;
    for (int64_t i = 0; i < 4; ++i) zeros += SourceAt(rows, row, channel + i) == 0 ? 1 : 0;
    if (zeros < 2) return false;
  }
  return true;
}

unsigned TwoSmallest(const double scores[4]) {
  int first = 0;
  for (int i = 1; i < 4; ++i) {
    if (scores[i] < scores[first]) first = i;
  }
  int second = first == 0 ? 1 : 0;
  for (int i = second + 1; i < 4; ++i) {
    if (i != first && scores[i] < scores[second]) second = i;
  }
  return (1u << first) | (1u << second);
}

}  // namespace octavo
