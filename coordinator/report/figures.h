#pragma once

// What quantizing did to the weights, and what calibration saw: put together from a plan and the
// receipts of its units. Pure. Receipts are the same on every cluster and the order of adding is
// fixed, so the figures are the same bits as well.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "octavo/v1/plan.pb.h"
#include "octavo/v1/task.pb.h"

namespace octavo {

// Quantized weights, any number of them.
struct WeightFigures {
  uint64_t tensors = 0;
  uint64_t elements = 0;
  double squared_error = 0;
  double squared_source = 0;
  double max_abs_error = 0;
  uint64_t saturated = 0;    // codes of the largest magnitude; every group's maximum is one
  uint64_t zero_groups = 0;  // groups that are all zero
  float scale_min = 0;       // as stored, of the other groups; 0: there are none
  float scale_max = 0;

  void Add(const WeightFigures& other);
  // Root of squared error over squared source; 0 for weights that are all zero.
  double RelativeError() const;
};

// Where a tensor stands. Tensors outside layers: -1.
struct FigurePlace {
  int32_t layer = -1;
  v1::TensorRole role = v1::ROLE_UNSPECIFIED;
  int32_t expert = -1;
};

struct TensorFigures {
  std::string name;  // in the source
  FigurePlace place;
  v1::NumericFormat format;
  WeightFigures weights;
};

// All tensors of one role, of one layer, or of one role in one layer (with all experts); what does
// not tell them apart is left out of the place.
struct GroupFigures {
  FigurePlace place;
  WeightFigures weights;
};

// A static scale at one place, and the tensors of the output that hold it.
struct ScaleFigures {
  int32_t layer = 0;
  int32_t expert = -1;
  v1::ObservedPoint point = v1::OBSERVED_UNSPECIFIED;
  float scale = 0;
  float amax = 0;     // largest magnitude seen
  uint64_t rows = 0;  // tokens seen; a token that visits two experts counts twice
  std::vector<std::string> tensors;
};

// What calibration showed to one expert.
struct ExpertFigures {
  int32_t layer = 0;
  int32_t expert = 0;
  uint64_t rows = 0;    // tokens seen
  uint64_t routed = 0;  // of these, those that the router sent there; the others were only observed
  float input_amax = 0;
  float inner_amax = 0;
};

struct Figures {
  WeightFigures all;
  std::vector<TensorFigures> tensors;        // in model order
  std::vector<GroupFigures> roles;           // by role
  std::vector<GroupFigures> layers;          // by layer
  std::vector<GroupFigures> layers_by_role;  // by (role, layer)
  std::vector<const TensorFigures*> worst;   // largest relative error first, at most kWorstTensors
  std::vector<ScaleFigures> scales;          // by (layer, expert, point)
  std::vector<ExpertFigures> experts;        // by (layer, expert); empty for dense models
  std::vector<v1::SolveFigures> solved;      // by unit; empty without solvers
  std::vector<v1::SmoothFigures> smoothed;   // by unit; empty without smoothing
  // Hessians of experts; of these, those with few tokens: shrunk towards the mean of the layer's
  // experts, or too few to be solved under at all.
  uint64_t solved_experts = 0;
  uint64_t shrunk_experts = 0;
  uint64_t rounded_experts = 0;
  uint64_t kept_tensors = 0;  // copied as they were
  uint64_t calibration_tokens = 0;
  uint64_t calibration_samples = 0;

  Figures() = default;
  Figures(Figures&&) = default;  // `worst` points into `tensors`, which a move leaves in place
  Figures& operator=(Figures&&) = default;
};

inline constexpr size_t kWorstTensors = 10;

// `by_unit`: one receipt of every unit of `plan`, by unit id. Pieces of a tensor merge over Tree in
// the order of units; groups add up tensors in model order. Memory: a few hundred bytes for every
// tensor, 16 for every piece.
Figures MakeFigures(const v1::Plan& plan, std::span<const v1::Receipt* const> by_unit);

}  // namespace octavo
