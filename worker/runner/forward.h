#pragma once

// The forward pass of one rank over a checked step: embedding, layers (attention.cc; mlp.cc or
// moe.cc), head. What a layer has decides what it does: there is one decoder for all families.
// The residual stream is BF16 and the same on every rank.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/matmul.h"
#include "kernels/norm.h"
#include "kernels/quantize_activation.h"
#include "kernels/rope.h"
#include "kernels/softmax.h"
#include "octavo/v1/engine.pb.h"
#include "octavo/v1/plan.pb.h"
#include "worker/device/thread_pool.h"
#include "worker/runner/exchange.h"
#include "worker/runner/expert_route.h"
#include "worker/runner/kv_cache.h"
#include "worker/runner/linear_input.h"
#include "worker/runner/observe.h"
#include "worker/runner/runner.h"
#include "worker/runner/step_plan.h"
#include "worker/runner/weight_stream.h"
#include "worker/runner/weights.h"
#include "worker/runner/workspace.h"

namespace octavo {

// How a model's heads are rotated.
RopeParameters RopeOf(const v1::ModelSpec& model);

class Forward {
 public:
  // All pointers outlive this.
  Forward(const v1::ServePlan& plan, uint32_t rank, const WeightSet* weights, const KvCache* cache,
          Communicator* communicator, ThreadPool* pool, Arena* arena, Isa isa);

  absl::Status Init();
  // Takes the memory that steps of the plan's max_batched_tokens need, so that the first of them
  // does not wait for it. Scores of attention grow where a context is longer than that.
  absl::Status ReserveLargestStep();
  absl::Status Run(const v1::Step& step, const StepRows& rows, Logits* out);
  // A pass of samples through one layer.
  struct LayerPass {
    const Observe* observe = nullptr;
    // Reads the layer's matrices, where they are streamed.
    WeightStream* stream = nullptr;
    // Rows of each sample (chunk) that every expert is to see; 0: those routed to it.
    int64_t expert_quota = 0;
  };
  // The only layer of the plan over x ([rows][hidden] BF16), in place. One rank.
  absl::Status RunLayer(const v1::Step& step, const StepRows& rows, uint16_t* x,
                        const LayerPass& pass);

 private:
  // Tokens of one chunk whose queries are attended to together.
  struct QuerySpan {
    int chunk = 0;
    int64_t row = 0;
    int64_t count = 0;
  };

  absl::Status Reserve(const v1::Step& step, const StepRows& rows);
  void PrepareRotation(const StepRows& rows);
  absl::Status Layer(int64_t layer, const v1::Step& step, const StepRows& rows);
  absl::Status See(v1::ObservedPoint point, const GrowingBuffer& x, int64_t rows, int64_t columns);
  absl::Status Products(std::span<const LinearJob> jobs);
  absl::Status Embed(const StepRows& rows);
  absl::Status Attention(int64_t layer, const v1::Step& step, const StepRows& rows);
  absl::Status Mlp(int64_t layer, const StepRows& rows);
  absl::Status Moe(int64_t layer, const v1::Step& step, const StepRows& rows);
  absl::Status Head(const StepRows& rows, Logits* out);
  // Copies the wanted rows of the residual stream after `layer`.
  void KeepResiduals(int64_t layer, const StepRows& rows, Logits* out) const;

  // normed_ = the model's norm of the given rows of the residual stream.
  void Norm(const std::vector<uint16_t>& weight, std::span<const int64_t> rows);
  // One row's share of a KV group: norms of heads if the layer has them, rotation, cache.
  void RotateAndStore(int64_t layer, const v1::Step& step, const StepRows& rows, int64_t head);
  // Stores fp8(key / key scale), fp8(value / value scale); false where one is NaN or infinite.
  bool StoreCodes(int64_t layer, std::byte* part, int64_t slot, const uint16_t* key,
                  const uint16_t* value);
  void Attend(int64_t layer, const v1::Step& step, const StepRows& rows, const QuerySpan& span,
              int64_t head, int thread);
  // Experts [begin, end) of a mixture, worked on together.
  struct ExpertRun {
    const LayerWeights* weights;
    const ExpertRoute* route;
    size_t begin, end;
    int64_t first_visit() const { return route->begin[begin]; }
    int64_t visits() const { return route->begin[end] - route->begin[begin]; }
  };
  absl::StatusOr<ExpertRoute> RouteToExperts(const LayerWeights& weights, const v1::Step& step,
                                             int64_t rows);
  ExpertRun RunFrom(const LayerWeights& weights, const ExpertRoute& route, size_t begin,
                    int64_t rows) const;
  int64_t VisitsAtATime(int64_t rows) const;
  absl::Status EnterExperts(const ExpertRun& run);
  absl::Status VisitExperts(const ExpertRun& run, int64_t rows);
  absl::Status SeeVisits(v1::ObservedPoint point, const GrowingBuffer& x, const ExpertRun& run,
                         int64_t columns);
  void AddVisits(const ExpertRun& run, int64_t rows);
  // x_ += the sums of experts.
  void AddExpertSums(int64_t rows);

  // Products whose K is spread over the ranks (row_parallel.cc): rows [begin, end) of the input go
  // through `linear`, whose pieces merge by `pieces`.
  struct RowRun {
    const Linear* linear;
    const PieceMap* pieces;
    int64_t begin, end;
  };
  // `input` is [rows][depth] BF16, depth that of all linears; the runs tile its rows. Rows of
  // `output` are the input's rows.
  absl::Status RowParallel(std::span<const RowRun> runs, const uint16_t* input,
                           const LinearOutput& output);
  const PieceMap& AttentionPieces(const Linear& linear) const;
  const PieceMap& MlpPieces(const Linear& linear) const;
  // Rows are added to x_.
  LinearOutput Residual() const;

  const v1::ServePlan& plan_;
  const v1::RankPlan& rank_plan_;
  const WeightSet& weights_;
  const KvCache& cache_;
  ThreadPool* pool_;
  Arena* arena_;
  const MatmulOps& matmul_;
  const AttentionOps& attention_;
  const NormOps& norm_;
  const RopeOps& rope_;
  const ActivationOps& activation_;
  const SoftmaxOps& softmax_;
  const QuantizeActivationOps& quantize_;
  Exchange exchange_;
  InputPreparer inputs_;
  Workspace workspace_;

  int64_t hidden_;
  int64_t head_dim_;
  int64_t queries_per_head_;
  int64_t kv_heads_;          // of this rank
  int64_t widest_vocab_ = 0;  // rows of the head of any rank
  std::vector<float> frequencies_;
  PieceMap attention_pieces_, mlp_pieces_, exact_pieces_;

  LayerPass pass_;                                // while a RunLayer runs
  std::vector<uint64_t> expert_tokens_;           // Logits::expert_tokens, while a step runs
  GrowingBuffer x_;                               // [rows][hidden] BF16, the residual stream
  GrowingBuffer normed_;                          // [rows][hidden]
  GrowingBuffer query_, key_, value_, attended_;  // [rows][heads of this rank * head_dim]
  GrowingBuffer gate_, up_;                       // [rows or visits][inner of this rank]
  // Mixtures: F32 [rows][experts]; BF16 and F32 [visits][hidden]; F32 [rows][hidden]. Visits are
  // those of one ExpertRun.
  GrowingBuffer router_logits_, gathered_, visited_, expert_sums_;
  GrowingBuffer cos_, sin_;       // [rows][head_dim / 2]
  GrowingBuffer thread_scratch_;  // attention, per thread
  int64_t thread_scratch_bytes_ = 0;
  std::vector<int64_t> all_rows_;
  std::vector<QuerySpan> spans_;
};

}  // namespace octavo
