// Attention of one layer: projections, rotation, cache, attention, output projection.

#include <algorithm>
#include <vector>

#include "core/base/status.h"
#include "core/tensor/bare/amax.h"
#include "core/tensor/bare/elementary.h"
#include "core/tensor/bare/units.h"
#include "worker/runner/forward.h"

namespace octavo {
namespace {

constexpr uint16_t kBf16Nan = 0x7fc0;
constexpr int64_t kHeadDimMax = 512;  // more is refused when serving is planned

}  // namespace

void Forward::RotateAndStore(int64_t layer, const v1::Step& step, const StepRows& rows,
                             int64_t head) {
  const int64_t key_stride = kv_heads_ * head_dim_;
  const int64_t group = queries_per_head_ * head_dim_;
  const LayerWeights& weights = weights_.layers[static_cast<size_t>(layer)];
  const auto rotate = [&](uint16_t* one, const std::vector<uint16_t>& weight, const uint16_t* cos,
                          const uint16_t* sin) {
    if (!weight.empty()) {
      norm_.rms_norm(one, weight.data(), head_dim_, static_cast<float>(plan_.model().norm_eps()),
                     one);
    }
    rope_.rotate(one, cos, sin, head_dim_);
  };
  for (int64_t row = 0; row < rows.rows(); ++row) {
    const uint16_t* cos = cos_.as<uint16_t>() + row * (head_dim_ / 2);
    const uint16_t* sin = sin_.as<uint16_t>() + row * (head_dim_ / 2);
    uint16_t* queries = query_.as<uint16_t>() + row * kv_heads_ * group + head * group;
    for (int64_t i = 0; i < queries_per_head_; ++i) {
      rotate(queries + i * head_dim_, weights.query_norm, cos, sin);
    }
    uint16_t* key = key_.as<uint16_t>() + row * key_stride + head * head_dim_;
    rotate(key, weights.key_norm, cos, sin);
    const int64_t position = rows.positions[static_cast<size_t>(row)];
    const v1::StepChunk& chunk = step.chunks(rows.chunks[static_cast<size_t>(row)]);
    const uint32_t block = chunk.blocks(static_cast<int>(position / kKeyBlock));
    const uint16_t* value = value_.as<uint16_t>() + row * key_stride + head * head_dim_;
    std::byte* part = cache_.Part(layer, block, head);
    if (!cache_.is_fp8()) {
      StoreKeyValue(cache_.layout(), part, position % kKeyBlock, key, value);
    } else if (!StoreCodes(layer, part, position % kKeyBlock, key, value)) {
      // Codes have no NaN that attention would see: the queries take it along, to every rank.
      std::fill_n(queries, group, kBf16Nan);
    }
  }
}

bool Forward::StoreCodes(int64_t layer, std::byte* part, int64_t slot, const uint16_t* key,
                         const uint16_t* value) {
  const KvScale& scale = cache_.scale(layer);
  const auto count = static_cast<size_t>(head_dim_);
  uint8_t codes[2][kHeadDimMax];
  quantize_.fp8_divide(key, count, scale.key, codes[0]);
  quantize_.fp8_divide(value, count, scale.value, codes[1]);
  StoreKeyValue(cache_.layout(), part, slot, codes[0], codes[1]);
  return IsFiniteAmax(quantize_.amax(key, count)) && IsFiniteAmax(quantize_.amax(value, count));
}

void Forward::Attend(int64_t layer, const v1::Step& step, const StepRows& rows,
                     const QuerySpan& span, int64_t head, int thread) {
  const v1::StepChunk& chunk = step.chunks(span.chunk);
  const int64_t count = span.count * queries_per_head_;
  const int64_t last = rows.positions[static_cast<size_t>(span.row + span.count - 1)];
  const int64_t depth = RoundUp(head_dim_, 32);
  AttentionCall call;
  call.layout = cache_.layout();
  call.scale = Rsqrt(static_cast<float>(head_dim_));
  call.key_scale = cache_.scale(layer).key;
  call.value_scale = cache_.scale(layer).value;
  call.rows = count;
  call.block_count = last / kKeyBlock + 1;
  std::vector<const std::byte*> blocks;
  for (int64_t block = 0; block < call.block_count; ++block) {
    blocks.push_back(cache_.Part(layer, chunk.blocks(static_cast<int>(block)), head));
  }
  call.blocks = blocks.data();
  auto* scratch =
      reinterpret_cast<float*>(thread_scratch_.as<std::byte>() + thread * thread_scratch_bytes_);
  call.scores = scratch;
  call.sums = call.scores + count * call.block_count * kKeyBlock;
  float* queries = call.sums + count * RoundUp(head_dim_, 16);
  call.queries = queries;
  std::vector<int64_t> last_keys;
  std::vector<uint16_t*> out;
  for (int64_t i = 0; i < span.count; ++i) {
    const int64_t row = span.row + i;
    const int64_t at = (row * kv_heads_ + head) * queries_per_head_ * head_dim_;
    for (int64_t j = 0; j < queries_per_head_; ++j) {
      matmul_.widen(query_.as<uint16_t>() + at + j * head_dim_, head_dim_, queries);
      std::fill(queries + head_dim_, queries + depth, 0.0f);
      queries += depth;
      last_keys.push_back(rows.positions[static_cast<size_t>(row)]);
      out.push_back(attended_.as<uint16_t>() + at + j * head_dim_);
    }
  }
  call.last_keys = last_keys.data();
  call.out = out.data();
  attention_.attend(call);
}

absl::Status Forward::Attention(int64_t layer, const v1::Step& step, const StepRows& rows) {
  const LayerWeights& weights = weights_.layers[static_cast<size_t>(layer)];
  Norm(weights.attention_norm, all_rows_);
  OCTAVO_RETURN_IF_ERROR(See(v1::OBSERVED_ATTENTION_INPUT, normed_, rows.rows(), hidden_));
  const Linear* linears[] = {&weights.query, &weights.key, &weights.value};
  OCTAVO_RETURN_IF_ERROR(
      inputs_.Prepare(linears, normed_.as<uint16_t>(), hidden_, rows.rows(), nullptr));
  LinearJob jobs[3];
  const GrowingBuffer* outputs[] = {&query_, &key_, &value_};
  for (int i = 0; i < 3; ++i) {
    jobs[i].linear = linears[i];
    jobs[i].input = inputs_.For(*linears[i]);
    jobs[i].output.bf16 = outputs[i]->as<uint16_t>();
    jobs[i].output.stride = linears[i]->channels;
  }
  OCTAVO_RETURN_IF_ERROR(Products(jobs));
  const int64_t keys = kv_heads_ * head_dim_;
  OCTAVO_RETURN_IF_ERROR(
      See(v1::OBSERVED_QUERY_PROJECTED, query_, rows.rows(), keys * queries_per_head_));
  OCTAVO_RETURN_IF_ERROR(See(v1::OBSERVED_KEY_PROJECTED, key_, rows.rows(), keys));
  OCTAVO_RETURN_IF_ERROR(See(v1::OBSERVED_VALUE_PROJECTED, value_, rows.rows(), keys));
  if (plan_.model().clip_qkv() > 0) {
    const auto limit = static_cast<float>(plan_.model().clip_qkv());
    pool_->ParallelFor(rows.rows(), 8, [&](int64_t begin, int64_t end, int) {
      for (const LinearJob& job : jobs) {
        const int64_t width = job.output.stride;
        activation_.clip(job.output.bf16 + begin * width, (end - begin) * width, limit);
      }
    });
  }
  pool_->ParallelFor(kv_heads_, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t head = begin; head < end; ++head) RotateAndStore(layer, step, rows, head);
  });
  OCTAVO_RETURN_IF_ERROR(See(v1::OBSERVED_KEY, key_, rows.rows(), keys));
  OCTAVO_RETURN_IF_ERROR(See(v1::OBSERVED_VALUE, value_, rows.rows(), keys));
  const auto span_count = static_cast<int64_t>(spans_.size());
  pool_->ParallelFor(span_count * kv_heads_, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t task = begin; task < end; ++task) {
      Attend(layer, step, rows, spans_[static_cast<size_t>(task % span_count)], task / span_count,
             thread);
    }
  });
  OCTAVO_RETURN_IF_ERROR(
      See(v1::OBSERVED_ATTENTION_OUTPUT, attended_, rows.rows(), keys * queries_per_head_));
  const RowRun run = {&weights.output, &AttentionPieces(weights.output), 0, rows.rows()};
  return RowParallel(std::span(&run, 1), attended_.as<uint16_t>(), Residual());
}

}  // namespace octavo
