#pragma once

// The parts of BuildPlan: where everything goes (layout), and who reads what when (units; those
// that solve are in solve_plan.h). Private to coordinator/planner.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/scheme/recipe.h"
#include "octavo/v1/model.pb.h"
#include "octavo/v1/plan.pb.h"

namespace octavo {

struct Checkpoint;

// One source tensor and its places in the output.
struct PlacedTensor {
  const v1::ModelTensor* source = nullptr;
  TensorScheme scheme;        // null scheme: copied
  uint32_t source_file = 0;   // index into Checkpoint.files
  uint32_t output_file = 0;   // index into Plan.outputs
  uint64_t weight_begin = 0;  // absolute, in the output file
  // Where codes are stored as two of four and a bitmask (core/checkpoint/bitmask_storage.h).
  std::optional<uint64_t> bitmask_begin = std::nullopt;
  uint64_t scale_begin = 0;  // where quantized
  uint64_t scale_bytes = 0;  // of one scale: its dtype's size
  v1::DType scale_dtype = v1::DTYPE_UNSPECIFIED;
  int64_t expert_count = 1;  // experts that lie in it one after the other
  bool by_layers =
      false;  // some UNIT_SMOOTH, _SOLVE or _CAST of its layer writes it (solve_plan.h)

  // Anything not two-dimensional counts as one row.
  int64_t rows() const { return source->spec().shape_size() == 2 ? source->spec().shape(0) : 1; }
  uint64_t source_bytes() const { return source->spec().end() - source->spec().begin(); }
};

struct Layout {
  std::vector<PlacedTensor> tensors;  // by index of Checkpoint.tensors
  std::vector<v1::StaticScale>
      scales;  // to be written by calibration; by file, then in model order
};

// Fills plan->outputs (tensor files, config.json, index) in the dialect of `recipe`. Static scales
// lie in the file of the weight that they belong to. Every linear layer of a layer that reads the
// same thing has a scale of its own with the same value, and so have all experts: their inputs are
// tied, since servers keep one scale for all of them (not in a compatibility mode: compat.h).
absl::StatusOr<Layout> LayOutFiles(const Checkpoint& checkpoint, const v1::Recipe& recipe,
                                   std::span<const TensorScheme> schemes, v1::Plan* plan);

// All rows of a tensor, of a stack those of one expert, in one piece without a tie.
v1::Piece WholePiece(const PlacedTensor& tensor, int32_t expert);

// Bytes that a piece writes.
uint64_t OutputBytes(const v1::Piece& piece);
// Makes of a piece one that is only looked at.
void ClearOutput(v1::Piece* piece);

// Adds to plan->units, tie_group_count and source_bytes what copies and rounds to nearest. Looks at
// plan->recipe(), and leaves out what goes by layers.
void CutUnits(std::span<const PlacedTensor> tensors, v1::Plan* plan);

}  // namespace octavo
