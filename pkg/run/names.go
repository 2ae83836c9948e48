package run

import (
	"math/rand/v2"
	"slices"
	"strconv"
)

// What containers are called that nobody named: how it is, and where devices
// are.
var (
	moods = []string{
		"agile", "amber", "bold", "brave", "bright", "brisk", "calm", "clever", "cool", "crisp", "eager", "early",
		"fair", "fleet", "fond", "gentle", "glad", "golden", "grand", "happy", "hardy", "humble", "jolly", "keen",
		"kind", "lively", "loyal", "lucid", "mellow", "merry", "mighty", "modest", "neat", "noble", "patient",
		"plucky", "polite", "proud", "quick", "quiet", "ready", "robust", "serene", "sharp", "silent", "sleek",
		"smart", "snug", "solid", "spry", "steady", "stoic", "strong", "sturdy", "sunny", "swift", "tidy", "trusty",
		"vivid", "warm", "wise", "witty", "young", "zealous",
	}
	things = []string{
		"anchor", "antenna", "beacon", "bearing", "bridge", "buoy", "cabin", "camera", "canal", "compass", "crane",
		"dam", "depot", "dial", "drone", "dynamo", "engine", "ferry", "flare", "fuse", "gantry", "gauge", "gear",
		"harbor", "hatch", "kiosk", "lantern", "lever", "lift", "lighthouse", "locomotive", "lock", "magnet", "mast",
		"meter", "mill", "mirror", "motor", "orbit", "pier", "piston", "pump", "quay", "radar", "rail", "relay",
		"rotor", "rover", "satellite", "sensor", "signal", "silo", "sluice", "station", "switch", "tower", "tram",
		"tunnel", "turbine", "turret", "valve", "vane", "winch", "windmill",
	}
)

// randomName makes a name up; from the third try on with a number.
func randomName(try int) string {
	name := moods[rand.IntN(len(moods))] + "_" + things[rand.IntN(len(things))]
	if try > 2 {
		name += strconv.Itoa(rand.IntN(10000))
	}
	return name
}

// sortByAge puts the youngest first.
func sortByAge(list []*Observed) {
	slices.SortStableFunc(list, func(a, b *Observed) int { return b.Created.Compare(a.Created) })
}
