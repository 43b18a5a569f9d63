#pragma once

// Shapes of scales over a matrix. Private to core/doctor.

#include <cstdint>
#include <vector>

#include "core/doctor/announcement.h"
#include "octavo/v1/types.pb.h"

namespace octavo {

using Shape = std::vector<int64_t>;

// What the scales of a matrix should be; {} where that is not known. REQUIRES two axes.
Shape GridOf(const Said& said, const v1::TensorSpec& weight);
// Every number of `grid` is for a block, and all blocks have one size.
bool CutsEvenly(const Shape& grid, const v1::TensorSpec& weight);
// torch multiplies a matrix with such a tensor: each axis has the matrix's size, or 1.
bool LiesOver(const Shape& scale, const v1::TensorSpec& weight);

}  // namespace octavo
