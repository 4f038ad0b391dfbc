"""Between a scene and the cameras of a file: coordinates are mapped at the door, frame numbers become times."""

from __future__ import annotations

import numpy as np

from fourdgen.data.cameras_io import CameraEntry
from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import Sim3
from fourdgen.report import FourdgenError
from fourdgen.scene.scene4d import Scene4D, SceneClip


def camera_of(scene: Scene4D, entry: CameraEntry, root_from_input: Sim3 | None = None) -> Cameras:
    """One camera in the scene's root frame, of an entry in the user's coordinates (ours where the scene has none).

    `root_from_input` takes the place of the scene's own mapping. Lens distortion is not rendered.
    """
    mapping = root_from_input or scene.world_from_input
    pose = entry.cam_from_input.double()[None]
    moved = pose.float() if mapping is None else mapping.move_cameras(pose)
    return Cameras(moved, entry.K.float()[None], entry.size)


def moment_of(scene: Scene4D, entry: CameraEntry, clip: str | None = None) -> tuple[str, float | None]:
    """Clip and seconds that an entry means: its own clip, else `clip`, else the reference; None without a frame number.

    Frame numbers are those of the source file. One that was not reconstructed lies between those that were. Raises
    FourdgenError for a clip that the scene does not have.
    """
    name = entry.clip or clip or scene.reference
    frames = clip_of(scene, name)
    if entry.frame is None:
        return name, None
    return name, seconds_of(frames, entry.frame)


def clip_of(scene: Scene4D, name: str) -> SceneClip:
    """A clip by name. Raises FourdgenError where there is none."""
    if name not in scene.clips:
        raise FourdgenError(f"the scene has no clip {name!r}", f"its clips: {', '.join(scene.clips)}")
    return scene.clips[name]


def seconds_of(clip: SceneClip, frame: int) -> float:
    """Time of a frame number of the source, linear between the frames that the clip has, held outside."""
    return float(np.interp(frame, clip.frame_ids.double().numpy(), clip.seconds.double().numpy()))


def entries_of(scene: Scene4D) -> list[CameraEntry]:
    """The cameras used or found for the input frames, in the user's coordinates where the scene has them."""
    back = None if scene.world_from_input is None else scene.world_from_input.inverse()
    entries = []
    for clip in scene.clips.values():
        poses = clip.cameras.cam_from_world.double()
        if back is not None:
            poses = back.move_cameras(poses).double()
        for pose, K, number in zip(poses, clip.cameras.K, clip.frame_ids.tolist()):
            entries.append(
                CameraEntry(
                    file_path=f"{clip.name}/{int(number):05d}.png",
                    cam_from_input=pose,
                    K=K.double(),
                    size=clip.cameras.size,
                    clip=clip.name,
                    frame=int(number),
                )
            )
    return entries
