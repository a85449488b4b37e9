#include "quant/codebook.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>

#include "base/half.h"
#include "quant/search.h"

namespace sdcore::quant {
namespace {

using Indices [[gnu::vector_size(16)]] = int32_t;

// Of several points: what they cost with one scale, and the scale that would suit them best.
struct Choice {
  float inner = 0.0f, energy = 0.0f;  // sums of w x p and of w p p
  uint16_t candidates[8];

  float error(float scale) const { return scale * (scale * energy - 2.0f * inner); }
};

}  // namespace

// The search for one super-block. For each candidate c and each place that a point goes to,
// inner = sum of w x p and energy = sum of w p p are found once; with any scale s the error is then
// s s energy - 2 s inner, up to a constant. Where all numbers weigh the same, points of the same
// norm have the same energy, and of those only the one with the greatest inner is a candidate.
struct Codebook::Search {
  const Codebook& book;
  const bool weighed;
  const int places, places_per_group, groups;
  const int candidates, up;  // how many; the first of them are moved up, the others down
  std::vector<float>& memory;
  std::vector<uint16_t>& winners;  // by place and candidate, where those are norms
  const float* energies;
  int energy_stride;
  CodebookBlock block{};
  float furthest[16];

  Search(const Codebook& codebook, const float* values, const float* importance,
         std::vector<float>& floats, std::vector<uint16_t>& slots)
      : book(codebook),
        weighed(importance != nullptr),
        places(256 / book.shape_.coordinates),
        places_per_group(book.shape_.group / book.shape_.coordinates),
        groups(256 / book.shape_.group),
        candidates(weighed ? book.slots() : static_cast<int>(book.norms_.size())),
        up(weighed ? book.up_slots_ : book.up_norms_),
        memory(floats),
        winners(slots) {
    const auto size = static_cast<size_t>(places * candidates);
    memory.resize(weighed ? size * 2 : size);
    winners.resize(size);
    energies = weighed ? memory.data() + size : book.norms_.data();
    energy_stride = weighed ? candidates : 0;
    float kept[256];
    take_signs(values, importance, kept);
    for (int place = 0; place < places; ++place) {
      const int at = place * book.shape_.coordinates;
      if (weighed) {
        weighed_sums(kept + at, importance + at, place);
      } else {
        plain_sums(kept + at, place);
      }
    }
    for (int g = 0; g < groups; ++g) {
      furthest[g] = 0.0f;
      for (int i = g * book.shape_.group; i < (g + 1) * book.shape_.group; ++i) {
        furthest[g] = std::max(furthest[g], std::fabs(values[i]));
      }
    }
  }

  // Signs apart; where their number must be even, the number that matters least keeps its own.
  void take_signs(const float* values, const float* importance, float* kept) {
    std::copy(values, values + 256, kept);
    if (book.shape_.signs == CodebookShape::Signs::none) return;
    for (int byte = 0; byte < 32; ++byte) {
      float* x = kept + byte * 8;
      int bits = 0, least = 0;
      float least_cost = INFINITY;
      for (int i = 0; i < 8; ++i) {
        if (x[i] < 0.0f) bits |= 1 << i;
        x[i] = std::fabs(x[i]);
        const float cost = x[i] * x[i] * (importance ? importance[byte * 8 + i] : 1.0f);
        if (cost < least_cost) {
          least_cost = cost;
          least = i;
        }
      }
      if (book.shape_.signs == CodebookShape::Signs::even && std::popcount(unsigned(bits)) % 2) {
        bits ^= 1 << least;
        x[least] = -x[least];
      }
      block.signs[byte] = static_cast<uint8_t>(bits);
    }
  }

  void weighed_sums(const float* x, const float* weights, int place) {
    float* inner = memory.data() + place * candidates;
    float* energy = memory.data() + (places + place) * candidates;
    for (int slot = 0; slot < candidates; slot += 4) {
      Vec sum{}, square{};
      for (int c = 0; c < book.shape_.coordinates; ++c) {
        const Vec coordinate = load(book.coordinate(c) + slot);
        sum += weights[c] * x[c] * coordinate;
        square += weights[c] * coordinate * coordinate;
      }
      store(sum, inner + slot);
      store(square, energy + slot);
    }
  }

  void plain_sums(const float* x, int place) {
    for (int norm = 0; norm < candidates; ++norm) {
      const auto at = static_cast<size_t>(place * candidates + norm);
      Vec most = Vec{} - INFINITY;
      Indices best{}, index = Indices{0, 1, 2, 3} + book.begins_[static_cast<size_t>(norm)];
      const int end = book.begins_[static_cast<size_t>(norm) + 1];
      for (int slot = index[0]; slot < end; slot += 4, index += 4) {
        Vec sum{};
        for (int c = 0; c < book.shape_.coordinates; ++c) {
          sum += x[c] * load(book.coordinate(c) + slot);
        }
        const Indices better = sum > most;
        most = better ? sum : most;
        best = better ? index : best;
      }
      float inner = -INFINITY;
      int winner = 0;
      for (int lane = 0; lane < 4; ++lane) {
        if (most[lane] > inner || (most[lane] == inner && best[lane] < winner)) {
          inner = most[lane];
          winner = best[lane];
        }
      }
      memory[at] = inner;
      winners[at] = static_cast<uint16_t>(winner);
    }
  }

  // The point that a candidate stands for.
  uint16_t point(int place, int candidate) const {
    const auto at = static_cast<size_t>(place * candidates + candidate);
    return book.points_[weighed ? static_cast<size_t>(candidate) : winners[at]];
  }

  // The best of the candidates [begin, end) for one place.
  int choose_one(int place, float scale, int begin, int end) const {
    const float* inner = memory.data() + place * candidates;
    const float* energy = energies + place * energy_stride;
    Vec cost = Vec{} + INFINITY;
    Indices at = Indices{} + begin, index = Indices{0, 1, 2, 3} + begin;
    int c = begin;
    for (; c + 4 <= end; c += 4, index += 4) {
      const Vec here = scale * load(energy + c) - 2.0f * load(inner + c);
      const Indices better = here < cost;
      cost = better ? here : cost;
      at = better ? index : at;
    }
    float least = INFINITY;
    int best = begin;
    for (int lane = 0; lane < 4; ++lane) {
      if (cost[lane] < least || (cost[lane] == least && at[lane] < best)) {
        least = cost[lane];
        best = at[lane];
      }
    }
    for (; c < end; ++c) {
      const float here = scale * energy[c] - 2.0f * inner[c];
      if (here < least) {
        least = here;
        best = c;
      }
    }
    return best;
  }

  Choice choose(int group, float scale, int begin, int end) const {
    Choice choice;
    for (int p = 0; p < places_per_group; ++p) {
      const int place = group * places_per_group + p;
      const int best = choose_one(place, scale, begin, end);
      choice.candidates[p] = static_cast<uint16_t>(best);
      choice.inner += memory[static_cast<size_t>(place * candidates + best)];
      choice.energy += energies[place * energy_stride + best];
    }
    return choice;
  }

  Choice choose(int group, float scale) const {
    if (up == candidates || !book.shape_.shift_per_group) {
      return choose(group, scale, 0, candidates);
    }
    const Choice above = choose(group, scale, 0, up), below = choose(group, scale, up, candidates);
    return above.error(scale) <= below.error(scale) ? above : below;
  }

  // The scale that suits a group best, were scales not rounded.
  float fit_scale(int group) const {
    if (furthest[group] == 0.0f) return 0.0f;
    const float start = furthest[group] / book.largest_;
    float best = start, best_gain = -INFINITY;
    const auto attempt = [&](float scale) {
      const Choice choice = choose(group, scale);
      if (!(choice.inner > 0.0f)) return;
      const float gain = choice.inner * choice.inner / choice.energy;
      if (gain > best_gain) {
        best_gain = gain;
        best = choice.inner / choice.energy;
      }
    };
    for (int step = 0; step < 9; ++step) attempt(start * (0.5f + 0.1f * static_cast<float>(step)));
    attempt(furthest[group] / book.smallest_);  // for numbers that are all of one size
    attempt(best);
    return best;
  }

  float unit() const { return to_float(f16{block.unit}) / book.shape_.unit_factor; }

  // Levels and points for a unit, and the unit that would suit those best.
  struct Assigned {
    float error = 0.0f, inner = 0.0f, energy = 0.0f;
    float best_unit() const { return energy > 0.0f ? std::max(inner / energy, 0.0f) : 0.0f; }
  };
  Assigned assign(const float* scales, float wanted_unit) {
    block.unit = unit_of(wanted_unit * book.shape_.unit_factor).bits;
    const float step = unit();
    Assigned sum;
    for (int g = 0; g < groups; ++g) {
      const int middle =
          step > 0.0f ? static_cast<int>(std::min(scales[g] / step, 64.0f) / 2.0f) : 0;
      const int low = std::clamp(middle - 1, 0, book.shape_.most);
      const int high = std::clamp(middle + 1, 0, book.shape_.most);
      float least = INFINITY, factor = 1.0f;
      Choice best;
      for (int level = low; level <= high; ++level) {
        const auto odd = static_cast<float>(2 * level + 1);
        const Choice choice = choose(g, step * odd);
        if (level > low && !(choice.error(step * odd) < least)) continue;
        least = choice.error(step * odd);
        best = choice;
        factor = odd;
        block.levels[g] = static_cast<uint8_t>(level);
      }
      sum.error += least;
      sum.inner += factor * best.inner;
      sum.energy += factor * factor * best.energy;
      for (int p = 0; p < places_per_group; ++p) {
        const int place = g * places_per_group + p;
        block.points[place] = point(place, best.candidates[p]);
      }
    }
    return sum;
  }
};

// Points in the order of their norms, moved up and then moved down; those of one norm fill whole
// vectors, the last of them repeated.
Codebook::Codebook(const CodebookShape& shape) : shape_(shape) {
  std::vector<float> values;  // [slots][coordinates]
  begins_.push_back(0);
  for (const float shift : {shape.shift, -shape.shift}) {
    const bool down = shift != shape.shift;
    if (!down && !points_.empty()) break;  // they are not moved
    std::map<float, std::vector<int>> by_norm;
    for (int p = 0; p < shape.count; ++p) {
      float norm = 0.0f;
      for (int c = 0; c < shape.coordinates; ++c) {
        const float value = shift + static_cast<float>(shape.points[p * shape.coordinates + c]);
        norm += value * value;
        largest_ = std::max(largest_, std::fabs(value));
        smallest_ = std::min(smallest_, std::fabs(value));
      }
      by_norm[norm].push_back(p);
    }
    for (auto& [norm, members] : by_norm) {
      while (members.size() % 4 != 0) members.push_back(members.back());
      for (const int p : members) {
        points_.push_back(static_cast<uint16_t>(down ? p + shape.count : p));
        for (int c = 0; c < shape.coordinates; ++c) {
          values.push_back(shift + static_cast<float>(shape.points[p * shape.coordinates + c]));
        }
      }
      norms_.push_back(norm);
      begins_.push_back(slots());
    }
    if (!down) {
      up_slots_ = slots();
      up_norms_ = static_cast<int>(norms_.size());
    }
  }
  coordinates_.resize(values.size());
  for (int slot = 0; slot < slots(); ++slot) {
    for (int c = 0; c < shape.coordinates; ++c) {
      coordinates_[static_cast<size_t>(c * slots() + slot)] =
          values[static_cast<size_t>(slot * shape.coordinates + c)];
    }
  }
}

CodebookBlock Codebook::fit(const float* values, const float* importance) const {
  static thread_local std::vector<float> floats;
  static thread_local std::vector<uint16_t> slots;
  Search search(*this, values, importance, floats, slots);
  float scales[16], most = 0.0f;
  for (int g = 0; g < search.groups; ++g) {
    scales[g] = search.fit_scale(g);
    most = std::max(most, scales[g]);
  }
  if (most == 0.0f) return search.block;
  auto now = search.assign(scales, most / static_cast<float>(2 * shape_.most + 1));
  CodebookBlock best = search.block;
  for (int again = 0; again < 2; ++again) {
    const auto next = search.assign(scales, now.best_unit());
    if (!(next.error < now.error)) break;
    now = next;
    best = search.block;
  }
  // Where f16 has no unit that is small enough, zeros are nearer than any point.
  return now.error < 0.0f ? best : CodebookBlock{};
}

}  // namespace sdcore::quant
