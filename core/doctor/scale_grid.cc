#include "core/doctor/scale_grid.h"

namespace octavo {

Shape GridOf(const Said& said, const v1::TensorSpec& weight) {
  const int64_t rows = weight.shape(0), columns = weight.shape(1);
  switch (said.grid) {
    case Grid::kTensor:
      return {1};
    case Grid::kChannel:
      return {rows, 1};
    case Grid::kBlock:
      if (said.block_rows <= 0 || said.block_columns <= 0) return {};
      return {(rows + said.block_rows - 1) / said.block_rows,
              (columns + said.block_columns - 1) / said.block_columns};
    case Grid::kOther:
      return {};
  }
  return {};
}

bool CutsEvenly(const Shape& grid, const v1::TensorSpec& weight) {
  return grid.size() == 2 && grid[0] > 0 && grid[1] > 0 && weight.shape(0) % grid[0] == 0 &&
         weight.shape(1) % grid[1] == 0;
}

bool LiesOver(const Shape& scale, const v1::TensorSpec& weight) {
  if (scale.size() > 2) return false;
  for (size_t back = 0; back < scale.size(); ++back) {
    const int64_t own = scale[scale.size() - 1 - back];
    if (own != 1 && own != weight.shape(1 - static_cast<int>(back))) return false;
  }
  return true;
}

}  // namespace octavo
