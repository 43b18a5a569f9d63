// Fused tensors taken apart: rows, bytes, experts and scales of every part.

#include "core/plan/unfuse.h"

#include "core/base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

using ::testing::ElementsAre;

v1::ModelSpec Spec() {
  v1::ModelSpec spec;
  spec.set_hidden_size(64);
  spec.set_head_count(6);
  spec.set_kv_head_count(3);
  spec.set_head_dim(64);
  spec.set_intermediate_size(10);
  spec.set_expert_count(3);
  return spec;
}

ServedTensor Tensor(v1::TensorRole role, int64_t rows) {
  ServedTensor out;
  out.tensor.set_role(role);
  out.tensor.set_layer(1);
  out.tensor.set_expert(-1);
  v1::TensorSpec* spec = out.tensor.mutable_spec();
  spec->set_name("fused");
  spec->set_dtype(v1::BF16);
  spec->add_shape(rows);
  spec->add_shape(64);
  spec->set_begin(1000);
  spec->set_end(1000 + static_cast<uint64_t>(rows) * 128);
  return out;
}

void Quantize(v1::Granularity granularity, std::vector<int64_t> scale_shape, ServedTensor* tensor) {
  tensor->scheme.emplace().mutable_weight()->set_granularity(granularity);
  tensor->scheme->mutable_weight()->set_block_rows(128);
  tensor->scheme->mutable_weight()->set_block_columns(128);
  v1::TensorSpec& scale = tensor->scale.emplace();
  for (const int64_t dimension : scale_shape) scale.add_shape(dimension);
  scale.set_begin(50);
  scale.set_end(50 + static_cast<uint64_t>(scale_shape[0]) * 4);
}

TEST(Unfuse, QueriesKeysAndValuesAreRunsOfRows) {
  ServedTensor fused = Tensor(v1::FUSED_QKV, 768);
  Quantize(v1::PER_CHANNEL, {768, 1}, &fused);
  const auto parts = Unfuse(Spec(), fused);
  ASSERT_TRUE(parts.ok()) << parts.status();
  ASSERT_EQ(parts->size(), 3u);
  EXPECT_EQ((*parts)[0].tensor.role(), v1::Q_PROJ);
  EXPECT_EQ((*parts)[2].tensor.role(), v1::V_PROJ);
  const v1::ModelTensor& key = (*parts)[1].tensor;
  EXPECT_EQ(key.role(), v1::K_PROJ);
  EXPECT_EQ(key.expert(), -1);
  EXPECT_EQ(key.layer(), 1);
  EXPECT_THAT(key.spec().shape(), ElementsAre(192, 64));
  EXPECT_EQ(key.spec().begin(), 1000u + 384 * 128);
  EXPECT_EQ(key.spec().end(), 1000u + 576 * 128);
  EXPECT_EQ((*parts)[2].tensor.spec().end(), fused.tensor.spec().end());
  EXPECT_THAT((*parts)[1].scale->shape(), ElementsAre(192, 1));
  EXPECT_EQ((*parts)[1].scale->begin(), 50u + 384 * 4);
}

TEST(Unfuse, OneScaleBelongsToAllAndBlocksMustNotBeCut) {
  ServedTensor fused = Tensor(v1::FUSED_QKV, 768);
  Quantize(v1::PER_TENSOR, {1}, &fused);
  fused.input_scale.emplace().set_begin(40);
  const auto shared = Unfuse(Spec(), fused);
  ASSERT_TRUE(shared.ok()) << shared.status();
  for (const ServedTensor& part : *shared) {
    EXPECT_EQ(part.scale->begin(), 50u);
    EXPECT_EQ(part.input_scale->begin(), 40u);
  }
  Quantize(v1::PER_BLOCK, {6, 1}, &fused);  // values begin in the middle of block 4
  EXPECT_EQ(ReasonOf(Unfuse(Spec(), fused).status()), Reason::kUnsupported);
  v1::ModelSpec even = Spec();
  even.set_kv_head_count(2);
  even.set_head_count(8);
  const auto parts = Unfuse(even, fused);
  ASSERT_TRUE(parts.ok()) << parts.status();
  EXPECT_EQ((*parts)[1].scale->begin(), 50u + 4 * 4);
  EXPECT_THAT((*parts)[1].scale->shape(), ElementsAre(1, 1));
}

TEST(Unfuse, ExpertsLieOneAfterTheOther) {
  const auto down = Unfuse(Spec(), Tensor(v1::STACKED_DOWN, 30));
  ASSERT_TRUE(down.ok()) << down.status();
  ASSERT_EQ(down->size(), 3u);
  const v1::ModelTensor& last = (*down)[2].tensor;
  EXPECT_EQ(last.role(), v1::EXPERT_DOWN);
  EXPECT_EQ(last.expert(), 2);
  EXPECT_TRUE(last.transposed());
  EXPECT_THAT(last.spec().shape(), ElementsAre(10, 64));
  EXPECT_EQ(last.spec().begin(), 1000u + 20 * 128);
  EXPECT_FALSE((*Unfuse(Spec(), Tensor(v1::STACKED_UP, 30)))[1].tensor.transposed());

  ServedTensor quantized = Tensor(v1::STACKED_GATE, 30);
  Quantize(v1::PER_CHANNEL, {30, 1}, &quantized);
  EXPECT_EQ(ReasonOf(Unfuse(Spec(), quantized).status()), Reason::kUnsupported);
}

TEST(Unfuse, AnExpertHasItsOwnOfTheStacksScales) {
  ServedTensor stack = Tensor(v1::STACKED_DOWN, 30);
  Quantize(v1::PER_TENSOR, {3}, &stack);
  stack.input_scale = *stack.scale;
  stack.input_scale->set_begin(200);
  stack.input_scale->set_end(212);
  const auto parts = Unfuse(Spec(), stack);
  ASSERT_TRUE(parts.ok()) << parts.status();
  for (uint64_t e = 0; e < 3; ++e) {
    const ServedTensor& part = (*parts)[e];
    EXPECT_EQ(part.tensor.expert(), static_cast<int32_t>(e));
    EXPECT_THAT(part.scale->shape(), ElementsAre(1));
    EXPECT_EQ(part.scale->begin(), 50 + 4 * e);
    EXPECT_EQ(part.scale->end(), 54 + 4 * e);
    EXPECT_EQ(part.input_scale->begin(), 200 + 4 * e);
    EXPECT_EQ(part.input_scale->end(), 204 + 4 * e);
  }
  // One input scale may serve all experts; a scale of weights may not.
  stack.input_scale->clear_shape();
  stack.input_scale->set_end(204);
  EXPECT_EQ((*Unfuse(Spec(), stack))[2].input_scale->begin(), 200u);
  stack.scale->set_shape(0, 1);
  EXPECT_EQ(ReasonOf(Unfuse(Spec(), stack).status()), Reason::kBadCheckpoint);
  stack.scale->set_shape(0, 5);
  EXPECT_EQ(ReasonOf(Unfuse(Spec(), stack).status()), Reason::kBadCheckpoint);
}

TEST(Unfuse, LeavesOthersAlone) {
  const ServedTensor plain = Tensor(v1::O_PROJ, 64);
  const auto parts = Unfuse(Spec(), plain);
  ASSERT_EQ(parts->size(), 1u);
  EXPECT_EQ((*parts)[0].tensor.SerializeAsString(), plain.tensor.SerializeAsString());
}

}  // namespace
}  // namespace octavo
