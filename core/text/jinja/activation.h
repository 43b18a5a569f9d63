#pragma once

// The frame of one call, current while this lives.

#include <memory>
#include <utility>

#include "core/text/jinja/evaluator.h"

namespace octavo::jinja {

class Evaluator::Activation {
 public:
  Activation(Evaluator* evaluator, Frame* outer, int slots)
      : evaluator_(*evaluator), frame_(std::make_unique<Frame>()), caller_(evaluator->frame_) {
    frame_->outer = outer;
    frame_->slots.resize(static_cast<size_t>(slots));
    evaluator_.frame_ = frame_.get();
  }
  ~Activation() {
    evaluator_.frame_ = caller_;
    if (frame_->captured) evaluator_.kept_frames_.push_back(std::move(frame_));
  }
  Activation(const Activation&) = delete;
  Activation& operator=(const Activation&) = delete;

 private:
  Evaluator& evaluator_;
  std::unique_ptr<Frame> frame_;
  Frame* caller_;
};

}  // namespace octavo::jinja
