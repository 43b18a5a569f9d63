#pragma once

// From a row of logits to a token, as docs/numerics.md, "Sampling", says. A draw depends on the
// logits, the request and its tokens so far (TokenRules) and (seed, position) alone (Philox,
// core/tensor/bare/philox.h): a request can be replayed from its token log.

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/softmax.h"
#include "octavo/v1/engine.pb.h"
#include "worker/serve/token_rules.h"

namespace octavo {

// What makes log probabilities of a row's logits. Errors: kNonFinite for a NaN or an infinity.
absl::StatusOr<LogSum> LogSumOf(std::span<const float> logits, Isa isa);

// What is told of a token, besides its id: of the raw logits, before any rule and temperature.
struct TokenDetail {
  bool logprob = false;
  uint32_t top = 0;  // that many most likely ids with their log probabilities; `logprob`, too
};

// Holds the room that rows are worked on in, so that a token allocates nothing of the vocabulary's
// size. One thread at a time.
class Sampler {
 public:
  explicit Sampler(Isa isa = BestIsa()) : isa_(isa) {}  // the same bits for all

  // Rules first. Temperature 0 then takes the largest logit, the lowest id of equals. Otherwise,
  // of logits / temperature: those stay whose probability is at least min_p of the largest; of them
  // the top_k most likely (ties to the lower id); of those the fewest most likely whose probability
  // among them reaches top_p; one is drawn. `position` is the token's own in its sequence.
  // Errors: kNonFinite.
  absl::StatusOr<v1::EngineToken> Sample(std::span<const float> logits, const TokenRules& rules,
                                         uint64_t position, const TokenDetail& detail = {});

  // What `detail` asks of `id`, which may be any. Errors: kNonFinite.
  absl::StatusOr<v1::EngineToken> Describe(std::span<const float> logits, int32_t id,
                                           const TokenDetail& detail);

 private:
  // A token that may be drawn; what it weighs is an integer, so that sums do not depend on order.
  struct Candidate {
    int32_t id;
    float logit;
    uint64_t weight;
    // More likely first; of equals the lower id.
    bool operator<(const Candidate& other) const {
      return logit > other.logit || (logit == other.logit && id < other.id);
    }
  };

  int32_t DrawFrom(std::span<const float> logits, const v1::Sampling& sampling, uint64_t position);
  // Sets probabilities_ to the softmax of logits / temperature, and what min_p makes of them.
  void FindProbabilities(std::span<const float> logits, float temperature, float min_p);
  // Of an id's probability; 0 where min_p leaves it out, or where it is below 2^-44.
  uint64_t WeightOf(size_t id) const;
  // Fills candidates_ with the `count` first, without weights.
  void TakeMostLikely(std::span<const float> logits, size_t count);
  // How many of candidates_, in order, it takes to weigh `weight` together, which all of them do.
  // These stand before the others then, and the last of them is the last in order.
  size_t CountReaching(uint64_t weight);
  // Makes candidates_ the fewest that reach `top_p` of `total`, the weight of all: of candidates_
  // themselves where they were chosen already, else of all ids. Returns what they weigh.
  uint64_t KeepTopP(std::span<const float> logits, float top_p, bool chosen, uint64_t total);
  void AddDetail(std::span<const float> logits, const LogSum& sum, const TokenDetail& detail,
                 v1::EngineToken& token);

  const Isa isa_;
  std::vector<float> row_;
  std::vector<float> probabilities_;
  float least_probability_ = 0;  // that stays
  std::vector<Candidate> candidates_;
};

}  // namespace octavo
