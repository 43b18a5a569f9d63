// The logits of a position of a sequence are the same bits whatever else happens: alone or among
// 64, in chunks of any size, over blocks that the prefix cache had, after a preemption, on any
// number of ranks and any instruction set. Compared row by row with each sequence alone on the
// reference kernels, one rank, its prompt whole, without the prefix cache.

#include <map>
#include <memory>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/isa.h"
#include "tests/fakes/eventually.h"
#include "tests/worker/serve/tiny_group.h"

namespace octavo::testing {
namespace {

constexpr int kRequests = 64;

// Every other prompt shares 70 tokens with others: half of these its first, the rest those from its
// second block on, after a block of its own, so that no block is found by its own tokens alone.
std::vector<int32_t> Prompt(int i, int64_t vocab) {
  // Around the ends of blocks (32 tokens) first.
  constexpr int kLengths[] = {1, 31, 32, 33, 63, 64, 65, 95, 96, 97, 128};
  const int length = i < 11 ? kLengths[i] : 2 + (i * 37) % 110;
  std::vector<int32_t> ids = RandomTokens(length, vocab, 100 + static_cast<uint64_t>(i));
  if (i % 2 == 0) return ids;
  const std::vector<int32_t> shared = RandomTokens(70, vocab, 99);
  for (size_t k = i % 4 == 1 ? 0 : 32; k < ids.size() && k < shared.size(); ++k) ids[k] = shared[k];
  return ids;
}

std::vector<v1::EngineRequest> Requests(const TinyModel& model) {
  std::vector<v1::EngineRequest> requests;
  for (int i = 0; i < kRequests; ++i) {
    v1::EngineRequest& request = requests.emplace_back();
    for (const int32_t id : Prompt(i, model.spec.vocab_size())) request.add_prompt(id);
    request.set_max_tokens(i % 9 == 0 ? 70 : 3 + static_cast<uint32_t>(i) % 12);
    request.set_prompt_logprobs(i % 8 == 5);
    if (i % 3 != 1) continue;
    request.mutable_sampling()->set_temperature(0.9f);
    request.mutable_sampling()->set_seed(static_cast<uint64_t>(i));
  }
  return requests;
}

v1::EngineScoreRequest Score(const TinyModel& model, uint32_t chunk) {
  v1::EngineScoreRequest score;
  for (const int32_t id : RandomTokens(100, model.spec.vocab_size(), 50)) score.add_ids(id);
  score.set_want_digests(true);
  score.set_chunk(chunk);
  return score;
}

void Await(EngineCall& call, v1::EngineEvent* all) {
  for (int i = 0; i < 3000; ++i) {
    v1::EngineEvent event;
    const EngineCall::News news = call.Wait(std::chrono::milliseconds(20), &event);
    ASSERT_NE(news, EngineCall::News::kFailed) << call.failure();
    if (news != EngineCall::News::kNothing) all->MergeFrom(event);
    if (news == EngineCall::News::kFinished) return;
  }
  FAIL() << "the call did not end";
}

using Digest = std::pair<uint64_t, uint64_t>;

// A model, and what each request gives alone.
struct Known {
  TinyModel model;
  std::vector<v1::EngineRequest> requests;
  std::vector<std::map<uint32_t, Digest>> rows;  // by position
  std::vector<std::vector<int32_t>> ids;
  std::vector<Digest> score;

  explicit Known(bool fp8_cache) {
    model =
        WriteTinyModel(RaggedSpec(), fp8_cache ? Format::kFp8Static : Format::kBf16, 7, fp8_cache);
    requests = Requests(model);
    TinyGroup group(model, {.isa = Isa::kReference, .every_row = true});
    for (v1::EngineRequest request : requests) {
      request.set_no_prefix_cache(true);
      const auto call = *group.engine->Generate(request);
      v1::EngineEvent all;
      Await(*call, &all);
      ids.emplace_back();
      for (const v1::EngineToken& token : all.tokens()) ids.back().push_back(token.id());
      rows.emplace_back();
      for (const TinyGroup::Row& row : group.rows()) {
        if (row.sequence == call->id()) rows.back().emplace(row.position, row.digest);
      }
      const size_t length = static_cast<size_t>(request.prompt_size()) + ids.back().size() - 1;
      EXPECT_EQ(rows.back().size(), length);
    }
    score = Scored(group, 0);
  }

  std::vector<Digest> Scored(TinyGroup& group, uint32_t chunk) const {
    const auto call = *group.engine->Score(Score(model, chunk));
    v1::EngineEvent end;
    Await(*call, &end);
    return Digests(*call);
  }

  static std::vector<Digest> Digests(EngineCall& call) {
    std::vector<Digest> digests;
    const v1::EngineScoreResponse score = call.TakeScore();
    for (const v1::Digest& digest : score.digests()) {
      digests.emplace_back(digest.low(), digest.high());
    }
    return digests;
  }
};

// The two caches; each model is made once.
const Known& KnownOf(bool fp8_cache) {
  static std::map<bool, std::unique_ptr<Known>> known;
  std::unique_ptr<Known>& one = known[fp8_cache];
  if (one == nullptr) one = std::make_unique<Known>(fp8_cache);
  return *one;
}

class EngineDigests : public ::testing::TestWithParam<bool> {
 protected:
  const Known& known() const { return KnownOf(GetParam()); }

  struct Live {
    size_t request;
    std::shared_ptr<EngineCall> call;
  };

  // Runs the first `count` requests at once, with scores among them.
  void Together(TinyGroup& group, size_t count) {
    std::vector<Live> live;
    std::vector<std::shared_ptr<EngineCall>> scores;
    {
      const MutexLock held(group.gate);
      for (size_t i = 0; i < count; ++i) {
        live.push_back({i, *group.engine->Generate(known().requests[i])});
        for (const uint32_t chunk : {0u, 1u, 7u, 64u}) {
          if (i == chunk / 2) scores.push_back(*group.engine->Score(Score(known().model, chunk)));
        }
      }
    }
    Compare(group, live);
    for (const auto& call : scores) {
      v1::EngineEvent end;
      Await(*call, &end);
      EXPECT_EQ(Known::Digests(*call), known().score);
    }
  }

  // Waits for what is alive and compares every row that the group computed for it.
  void Compare(const TinyGroup& group, const std::vector<Live>& live) {
    std::map<uint64_t, size_t> request_of;
    for (const Live& one : live) {
      v1::EngineEvent all;
      Await(*one.call, &all);
      std::vector<int32_t> ids;
      for (const v1::EngineToken& token : all.tokens()) ids.push_back(token.id());
      EXPECT_EQ(ids, known().ids[one.request]) << "request " << one.request;
      request_of[one.call->id()] = one.request;
    }
    std::map<uint64_t, std::set<uint32_t>> seen;
    for (const TinyGroup::Row& row : group.rows()) {
      const auto it = request_of.find(row.sequence);
      if (it == request_of.end()) continue;
      seen[row.sequence].insert(row.position);
      ASSERT_EQ(row.digest, known().rows[it->second].at(row.position))
          << "request " << it->second << ", position " << row.position;
    }
    for (const auto& [sequence, request] : request_of) {
      const auto& prompt = known().requests[request];
      const auto first =
          prompt.prompt_logprobs() ? 0u : static_cast<uint32_t>(prompt.prompt_size()) - 1;
      const auto end = static_cast<uint32_t>(known().rows[request].size());
      for (uint32_t position = first; position < end; ++position) {
        ASSERT_TRUE(seen[sequence].contains(position)) << request << " " << position;
      }
    }
  }
};

TEST_P(EngineDigests, AmongSixtyFour) {
  for (const uint32_t ranks : {1u, 2u, 3u}) {
    SCOPED_TRACE(ranks);
    TinyGroup group(known().model, {.ranks = ranks, .every_row = ranks == 3});
    Together(group, kRequests);
    EXPECT_LT(group.engine->figures().steps, 200u);
  }
}

TEST_P(EngineDigests, AloneOnMoreRanks) {
  for (const uint32_t ranks : {2u, 3u}) {
    SCOPED_TRACE(ranks);
    TinyGroup group(known().model, {.ranks = ranks, .sequences = 1});
    Together(group, 12);
  }
}

TEST_P(EngineDigests, InStepsOfAnySize) {
  for (const auto& [tokens, count] : {std::pair{1u, 6u}, {7u, 20u}, {64u, 64u}}) {
    SCOPED_TRACE(tokens);
    TinyGroup group(known().model, {.ranks = tokens == 7 ? 3u : 1u,
                                    .batched_tokens = tokens,
                                    .sequences = tokens,
                                    .every_row = tokens == 7});
    Together(group, count);
  }
}

TEST_P(EngineDigests, OverBlocksOfThePrefixCache) {
  for (const uint32_t ranks : {1u, 2u}) {
    SCOPED_TRACE(ranks);
    TinyGroup group(known().model, {.ranks = ranks, .sequences = 16, .every_row = true});
    Together(group, kRequests);
    const uint64_t found = group.engine->figures().prefix_tokens_found;
    EXPECT_GT(found, 100u);
    Together(group, kRequests);
    EXPECT_GT(group.engine->figures().prefix_tokens_found, found + 1500);
  }
}

// With a cache of two to four sequences, blocks are given back and taken by others all the time,
// and what is still kept of a preempted sequence is taken over again.
TEST_P(EngineDigests, AfterPreemption) {
  for (const uint32_t ranks : {1u, 3u}) {
    for (const uint32_t blocks : {9u, 14u}) {
      SCOPED_TRACE(blocks);
      TinyGroup group(known().model, {.ranks = ranks,
                                      .batched_tokens = 64,
                                      .sequences = 32,
                                      .blocks = blocks,
                                      .every_row = blocks == 9});
      Together(group, kRequests);
      EXPECT_GT(group.engine->figures().preemptions, 5u);
      EXPECT_GT(group.engine->figures().prefix_tokens_found, 0u);
      // The last call knows that it ended a moment before its blocks are free.
      EXPECT_TRUE(Eventually([&] { return group.engine->figures().kv_blocks_free == blocks; }));
    }
  }
}

TEST_P(EngineDigests, OnEveryInstructionSet) {
  for (const Isa isa : kIsasBestFirst) {
    if (!IsSupported(isa)) continue;
    SCOPED_TRACE(Name(isa));
    TinyGroup group(known().model, {.ranks = isa == Isa::kReference ? 2u : 3u,
                                    .isa = isa,
                                    .batched_tokens = 48,
                                    .sequences = 24,
                                    .blocks = 12});
    Together(group, isa == Isa::kReference ? 24 : kRequests);
    EXPECT_GT(group.engine->figures().preemptions, 0u);
  }
}

INSTANTIATE_TEST_SUITE_P(Caches, EngineDigests, ::testing::Values(false, true),
                         [](const auto& one) { return one.param ? "Fp8" : "Bf16"; });

}  // namespace
}  // namespace octavo::testing
